"""StreamingManager interrupted: by Ctrl-C, by signal handlers that call it again, by several threads at once."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from types import FrameType

import pytest

from spool import Spool
from streaming import StreamingManager
from streaming.errors import BadArgument
from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, eventually, wait_gone

HEADER = b"timestamp,x\n"


@pytest.fixture
def manager(home: Home, marker: str, far_end: FarEnd) -> Iterator[StreamingManager]:
    made = StreamingManager(
        far_end.token,
        host_info={},
        cloud_info={},
        metadata={"command": ["train", far_end.token], "note": f"token={far_end.token}"},
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )
    made.start()
    yield made
    wait_gone(marker)


def spool_of(manager: StreamingManager) -> Spool:
    assert manager._recorder is not None
    return manager._recorder.spool


def interrupt_in(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_while_append_waits_for_the_write_lock_leaves_no_transaction_open(
    manager: StreamingManager, far_end: FarEnd
) -> None:
    manager.append(HEADER + b"1,a\n")
    with closing(sqlite3.connect(spool_of(manager).path, isolation_level=None, check_same_thread=False)) as other:
        eventually(lambda: other.execute("BEGIN IMMEDIATE") is not None)
        release = threading.Timer(1.0, other.execute, ("ROLLBACK",))
        release.start()
        interrupt_in(0.3)
        with pytest.raises(KeyboardInterrupt):
            manager.append(b"2,b\n")
        release.join()
    manager.append(b"3,c\n")
    manager.stop(130, "failed")
    oracle.judge(
        far_end.evidence(), Told(HEADER, [b"1,a\n", b"3,c\n"], maybe=[b"2,b\n"]), run_status="failed", exit_code=130
    )


def test_append_cut_short_at_any_moment_is_whole_or_absent_and_the_run_goes_on(
    manager: StreamingManager, far_end: FarEnd
) -> None:
    class Cut(Exception):
        pass

    def cut(_signal: int, _frame: FrameType | None) -> None:
        raise Cut

    manager.append(HEADER + b"0,a\n")
    acknowledged, maybe = [b"0,a\n"], []
    before = signal.signal(signal.SIGALRM, cut)
    try:
        for number in range(1, 120):
            row = b"%d,a\n" % number
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * number)
                manager.append(row)
                signal.setitimer(signal.ITIMER_REAL, 0)
                acknowledged.append(row)
            except Cut:
                maybe.append(row)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    manager.append(b"999,a\n")
    manager.stop()
    told = Told(HEADER, [*acknowledged, b"999,a\n"], maybe=maybe)
    oracle.judge(far_end.evidence(), told, run_status="finished", exit_code=0)


def test_ctrl_c_while_stop_waits_is_no_end_of_stopping(manager: StreamingManager, far_end: FarEnd) -> None:
    manager.append(HEADER + b"1,a\n")
    with closing(sqlite3.connect(spool_of(manager).path, isolation_level=None, check_same_thread=False)) as other:
        eventually(lambda: other.execute("BEGIN IMMEDIATE") is not None)
        release = threading.Timer(1.0, other.execute, ("ROLLBACK",))
        release.start()
        interrupt_in(0.3)
        with pytest.raises(KeyboardInterrupt):
            manager.stop(7, "failed")
        release.join()
    assert manager.stop(0) != {}
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="failed", exit_code=7)


def test_append_by_a_signal_handler_amid_append_is_refused_in_words(manager: StreamingManager, far_end: FarEnd) -> None:
    refused: list[str] = []

    def last_row(_signal: int, _frame: FrameType | None) -> None:
        try:
            manager.append(b"9,z\n")
        except BadArgument as error:
            refused.append(str(error))

    manager.append(HEADER + b"1,a\n")
    before = signal.signal(signal.SIGUSR1, last_row)
    try:
        with closing(sqlite3.connect(spool_of(manager).path, isolation_level=None, check_same_thread=False)) as other:
            eventually(lambda: other.execute("BEGIN IMMEDIATE") is not None)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            release = threading.Timer(0.8, other.execute, ("ROLLBACK",))
            release.start()
            manager.append(b"2,b\n")
            release.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1
    assert "signal handler" in refused[0]
    manager.stop()
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n", b"2,b\n"]), run_status="finished", exit_code=0)


def test_stop_from_several_threads_gives_all_the_same_answer(manager: StreamingManager) -> None:
    manager.append(HEADER + b"1,a\n")
    answers: list[dict[str, object]] = []
    threads = [threading.Thread(target=lambda: answers.append(manager.stop(0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 4
    assert answers[0] != {}
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("code", [-(2**31) - 1, 2**70, "7"])
def test_exit_code_that_is_none_is_left_out(manager: StreamingManager, far_end: FarEnd, code: int) -> None:
    manager.append(HEADER + b"1,a\n")
    assert manager.stop(code, "failed") != {}
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="failed", exit_code=None)


def test_token_in_the_metadata_reaches_neither_disk_nor_service(
    manager: StreamingManager, far_end: FarEnd, home: Home
) -> None:
    manager.append(HEADER + b"1,a\n")
    manager.stop()
    token = far_end.token.encode()
    assert [path.name for path in home.spool_dir.iterdir() if token in path.read_bytes()] == []
    assert "***" in str(far_end.run().metadata)
    assert far_end.token not in str(far_end.run().metadata)
