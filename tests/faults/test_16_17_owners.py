"""Faults 16 and 17: two uploaders on one spool, with honest and with lying locks; a dead tracker's pid used again."""

import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spool import Spool, Tracker, system
from streaming.upload.model import Outcome
from tests.support import faults, oracle, plays, recovery
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, Program, clean_environment, start_program, wait_gone
from tests.support.shim import preload
from tests.support.turns import NoWait, drain_run

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")

BATCHES = 24  # a header change at every third: eight segments
# An engine of its own for one run, as where no socket can have a name; it ends when the run is delivered, or not ours.
UPLOADER = """
import json, socket, sys, threading
from pathlib import Path
from streaming.upload.engine import Engine
from streaming.upload.main import start_logging
order = json.loads(sys.argv[1])
start_logging(20)
ours, its = socket.socketpair()
engine = Engine(Path(order["path"]).parent)
engine.meet(its)
ours.sendall(json.dumps(order).encode() + b"\\n")

def hear():
    for line in ours.makefile():
        event = json.loads(line)
        if event["event"] in ("problem", "done"):
            print(event["event"], event.get("outcome") or event["cause"], flush=True)
        if event["event"] == "done" or event.get("cause") == "busy":
            ours.close()
            return

threading.Thread(target=hear, daemon=True).start()
engine.serve()
"""


def an_ended_run(home: Home, far_end: FarEnd) -> Path:
    new = replace(plays.new_run(token=far_end.token), api_url=far_end.api_url)
    with closing(Spool.create(home.spool_dir, new)) as spool:
        for number in range(BATCHES):
            spool.append([plays.batch_of(number)])
        next(iter(spool.seal_pending()))
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    return spool.path


def uploader(path: Path, home: Home, marker: str, far_end: FarEnd, **more: str) -> Program:
    order: dict[str, Any] = {
        "do": "drain",
        "path": str(path),
        "token": far_end.token,
        "api_url": far_end.api_url,
        "s3_endpoint_url": far_end.s3_endpoint_url,
        "has_ended": False,
        "spares_recent": False,
        "anew": False,
        "anywhere": False,
    }
    environment = clean_environment(home, marker, **more)
    return start_program([sys.executable, "-c", UPLOADER, json.dumps(order)], environment, stdin=True)


def judge(far_end: FarEnd) -> None:
    everything = Told(plays.HEADERS[0], recovery.lines(range(BATCHES)))
    oracle.judge(far_end.evidence(), everything, run_status="finished", exit_code=0)


def test_fault_16_second_uploader_finds_the_first_and_leaves_the_run_to_it(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    path = an_ended_run(home, far_end)
    held = faults.held()
    assert held.gate is not None
    far_end.fail_next("register", held)
    with uploader(path, home, marker, far_end) as first:
        assert held.gate.reached.wait(30)
        with uploader(path, home, marker, far_end) as second:
            result = second.wait()
        assert result.exit_code == 0
        assert b"problem busy" in result.stdout
        held.gate.release()
        assert first.wait().exit_code == 0
    judge(far_end)
    assert len(far_end.journal.requests("put")) == len(far_end.objects), "an object was sent twice"


def test_fault_16_two_uploaders_at_once_under_a_lying_lock_lose_and_double_nothing(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    """Both believe that they own the run. SQLite's own locks work: without them it could not keep a file whole."""
    path = an_ended_run(home, far_end)
    lying = preload(home.tmp_dir, SHIM_FLOCK="lie")
    far_end.always("put", faults.delayed(0.05))
    with (
        uploader(path, home, marker, far_end, **lying) as first,
        uploader(path, home, marker, far_end, **lying) as second,
    ):
        ends = [first.wait(), second.wait()]
    assert [end.exit_code for end in ends] == [0, 0], b"".join(end.stderr for end in ends).decode()
    wait_gone(marker)
    judge(far_end)
    assert len(far_end.journal.requests("put")) > len(far_end.objects), "the two never worked at once"


def test_fault_16_uploader_that_was_killed_leaves_no_lock_behind(home: Home, marker: str, far_end: FarEnd) -> None:
    path = an_ended_run(home, far_end)
    far_end.fail_next("register", faults.silent())
    with uploader(path, home, marker, far_end) as first:
        far_end.journal.wait_for_count("register", 1, 30)
        first.kill()
    with uploader(path, home, marker, far_end) as second:
        assert second.wait().exit_code == 0
    judge(far_end)


def drained(path: Path, far_end: FarEnd) -> Outcome:
    clients = recovery.connect(far_end)
    try:
        return drain_run(path, clients, NoWait(), api_url=far_end.api_url)
    finally:
        clients.reset()


def an_open_run(home: Home, far_end: FarEnd, tracker: Tracker) -> Path:
    new = replace(plays.new_run(token=far_end.token), api_url=far_end.api_url, tracker=tracker)
    with closing(Spool.create(home.spool_dir, new)) as spool:
        for number in range(BATCHES):
            spool.append([plays.batch_of(number)])
    return spool.path


def test_fault_17_living_tracker_is_known_and_its_run_left_open(home: Home, far_end: FarEnd) -> None:
    path = an_open_run(home, far_end, system.identify(os.getpid()))
    assert drained(path, far_end) is Outcome.UPLOADED
    assert far_end.run().finish is None


@pytest.mark.parametrize(
    "forged",
    [{"started_at": "1"}, {"boot_id": "another-boot"}, {"started_at": "1", "boot_id": "another-boot"}],
    ids=["other start time", "other boot", "both"],
)
def test_fault_17_reused_pid_is_not_taken_for_the_dead_tracker(
    home: Home, far_end: FarEnd, forged: dict[str, Any]
) -> None:
    """Our own pid lives, but it is not the process that the spool names."""
    path = an_open_run(home, far_end, replace(system.identify(os.getpid()), **forged))
    assert drained(path, far_end) is Outcome.DELIVERED
    everything = Told(plays.HEADERS[0], recovery.lines(range(BATCHES)))
    oracle.judge(far_end.evidence(), everything, run_status="failed", exit_code=None)


def test_fault_17_uploader_takes_over_from_a_dead_tracker_whose_pid_lives_again(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    path = an_open_run(home, far_end, replace(system.identify(os.getpid()), started_at="1"))
    with uploader(path, home, marker, far_end) as program:
        assert program.wait().exit_code == 0
    everything = Told(plays.HEADERS[0], recovery.lines(range(BATCHES)))
    oracle.judge(far_end.evidence(), everything, run_status="failed", exit_code=None)


def test_fault_17_tracker_of_another_container_counts_as_alive_until_it_is_silent(home: Home, far_end: FarEnd) -> None:
    elsewhere = replace(system.identify(os.getpid()), pid_namespace="pid:[1]", pid=1)
    path = an_open_run(home, far_end, elsewhere)
    assert drained(path, far_end) is Outcome.UPLOADED
    assert far_end.run().finish is None
