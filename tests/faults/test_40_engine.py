"""Faults 40 and 41, and what the engine promises: one process for all runs, elected anew, fair, quick to say what it met."""

import math
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from spool import Batch, NewRun, RunState, Spool, system
from streaming.processes import engine_link, engine_socket
from streaming.processes.runtime_folder import runtime_folder
from streaming.record.plan import Delivery
from streaming.record.recorder import UNHEARD_WAIT_S, Recorder
from streaming.upload.reachability import FRESH_S
from tests.support import faults, oracle, spools
from tests.support.far_end import FarEnd
from tests.support.listener import BlackHole, FailingLink
from tests.support.oracle import Told
from tests.support.processes import Home, eventually, kill, start_program, wait_gone
from tests.support.programs import surroundings, uploaders
from tests.support.recorded import HEADER, rows
from tests.support.runs import ended_run

LONG_S = 3600.0
FILE_MAX_BYTES = 1 << 20


@pytest.fixture
def recorders(home: Home, far_end: FarEnd, marker: str) -> Iterator[Callable[..., Recorder]]:
    """Makes recorders of this very process; at the end they are closed, and the engine has left."""
    with ExitStack() as open_ones:

        def make(
            *, interval_s: float = 1.0, linger_s: float = 30.0, token: str | None = None, api_url: str = far_end.api_url
        ) -> Recorder:
            delivery = Delivery(token or far_end.token, api_url, far_end.s3_endpoint_url, interval_s, linger_s)
            new = NewRun(
                tracker=system.identify(os.getpid()),
                started_at=time.time(),
                token=delivery.token,
                host_info={},
                cloud_info={},
                api_url=api_url,
                s3_endpoint_url=far_end.s3_endpoint_url,
            )
            return open_ones.enter_context(closing(Recorder.start(home.spool_dir, new, delivery)))

        yield make
    for process in uploaders(marker):
        kill(process)
    wait_gone(marker)


def append(recorder: Recorder, first: int, count: int = 5) -> bytes:
    batch = rows(first, count)
    recorder.append([Batch(HEADER, batch)])
    return batch


def end(recorder: Recorder) -> None:
    recorder.end(exit_code=0, run_status="finished", ended_at=time.time())


def run_of(far_end: FarEnd, recorder: Recorder) -> str:
    registration = recorder.spool.run().registration
    assert registration is not None
    return registration.run_id


def judge(far_end: FarEnd, recorder: Recorder, batches: list[bytes]) -> None:
    evidence = far_end.evidence(run_of(far_end, recorder))
    oracle.judge(evidence, Told(HEADER, batches), run_status="finished", exit_code=0)


def test_nobody_waits_at_the_end_for_a_network_that_swallows_everything_while_the_engine_goes_on_trying(
    recorders: Callable[..., Recorder], far_end: FarEnd, marker: str
) -> None:
    with BlackHole() as hole:
        recorder = recorders(api_url=hole.url)
        append(recorder, 0)
        end(recorder)
        assert recorder.wait_finished(60) is None
        assert hole.unanswered_count() == 1, "the attempt itself has more patience"
        for process in uploaders(marker):
            kill(process)


@pytest.mark.timeout(60)
def test_nobody_waits_at_the_end_for_an_engine_that_says_nothing(
    recorders: Callable[..., Recorder], home: Home, far_end: FarEnd, marker: str
) -> None:
    """Suspended, it cannot tell that nobody answers; and there is no other bound on this wait."""
    recorder = recorders(interval_s=LONG_S)
    batches = [append(recorder, 0)]
    eventually(lambda: next_turn_at(home) > time.time(), 30, "it holds no lock between two turns")
    assert recorder.uploader_pid is not None
    (engine,) = uploaders(marker)
    kill(engine, signal.SIGSTOP)
    end(recorder)
    assert recorder.wait_finished(math.inf) is None
    kill(engine, signal.SIGCONT)
    eventually(lambda: recorder.spool.run().state is RunState.FINISHED, 40)
    judge(far_end, recorder, batches)


@pytest.mark.timeout(60)
def test_nobody_waits_at_the_end_for_an_answer_over_a_link_that_has_failed(
    recorders: Callable[..., Recorder], far_end: FarEnd, marker: str
) -> None:
    """The connection of before says nothing of it: what is sent there is lost without a word."""
    with FailingLink(far_end.api.port) as link:
        recorder = recorders(api_url=link.url, interval_s=LONG_S)
        eventually(lambda: recorder.spool.run().registration is not None, 30)
        registered_at = time.monotonic()
        eventually(lambda: time.monotonic() - registered_at > FRESH_S, 30)
        link.fail()
        append(
            recorder, 0
        )  # not before: the turn that registers may still be at it, and its PUT would be a fresh answer
        end(recorder)
        assert recorder.wait_finished(math.inf) is None
        assert link.swallowed == b""
        for process in uploaders(marker):
            kill(process)


@pytest.mark.parametrize("kind", ["finish", "put"])
def test_service_or_store_that_answers_slowly_is_waited_for(
    recorders: Callable[..., Recorder], far_end: FarEnd, kind: str
) -> None:
    recorder = recorders(interval_s=LONG_S if kind == "finish" else 1.0)
    batches = [append(recorder, 0)]
    far_end.journal.wait_for_count("register" if kind == "finish" else "put", 1, 30)
    answered_at = time.monotonic()
    eventually(lambda: time.monotonic() - answered_at > FRESH_S, 30)
    far_end.fail_next(kind, faults.delayed(UNHEARD_WAIT_S + 1))
    batches.append(append(recorder, 100))
    end(recorder)
    assert recorder.wait_finished(40)
    judge(far_end, recorder, batches)


def test_all_runs_of_a_directory_are_delivered_by_one_process(
    recorders: Callable[..., Recorder], far_end: FarEnd, marker: str
) -> None:
    made = [recorders() for _ in range(8)]
    told = [[append(recorder, number * 100)] for number, recorder in enumerate(made)]
    eventually(lambda: all(recorder.spool.sent_uris() for recorder in made), 40)
    assert len(uploaders(marker)) == 1
    assert len({recorder.uploader_pid for recorder in made}) == 1
    for recorder in made:
        end(recorder)
    assert all(recorder.wait_finished(30) for recorder in made)
    for recorder, batches in zip(made, told, strict=True):
        judge(far_end, recorder, batches)
    assert far_end.journal.count("register") == far_end.journal.count("finish") == 8


@pytest.mark.timeout(300)
def test_fault_40_engine_that_is_killed_again_and_again_loses_and_doubles_nothing(
    recorders: Callable[..., Recorder], far_end: FarEnd, marker: str
) -> None:
    made = [recorders() for _ in range(10)]
    told: list[list[bytes]] = [[] for _ in made]
    for kills in range(4):
        for number, recorder in enumerate(made):
            told[number].append(append(recorder, number * 1000 + kills * 10))
        wait_for_more_requests(far_end, made)
        for process in uploaders(marker):
            kill(process)
    for recorder in made:
        end(recorder)
    assert all(recorder.wait_finished(60) for recorder in made)
    for recorder, batches in zip(made, told, strict=True):
        judge(far_end, recorder, batches)
    assert len(far_end.runs) == 10
    finished = [entry.path for entry in far_end.journal.requests("finish") if entry.status == 200]
    assert len(finished) == len(set(finished)) == 10


def wait_for_more_requests(far_end: FarEnd, made: list[Recorder]) -> None:
    """As the trackers do it, each looks after its engine meanwhile."""
    seen = far_end.journal.count()

    def is_more() -> bool:
        for recorder in made:
            recorder.tend()
        return far_end.journal.count() > seen

    eventually(is_more, 40, "no engine works")


def test_fault_41_run_whose_store_hangs_holds_up_no_other(recorders: Callable[..., Recorder], far_end: FarEnd) -> None:
    hanging, *others = [recorders() for _ in range(4)]
    eventually(lambda: hanging.spool.run().registration is not None)
    prefix = run_of(far_end, hanging)
    held = faults.held(stores=False)
    far_end.always("put", held, matching=lambda head: prefix in head.path)
    append(hanging, 0)
    assert held.gate is not None
    assert held.gate.reached.wait(30)
    for round_number in range(3):
        before = [len(other.spool.sent_uris()) for other in others]
        for number, other in enumerate(others):
            append(other, 1000 * (number + 1) + 10 * round_number)
        eventually(
            lambda before=before: all(
                len(other.spool.sent_uris()) > count for other, count in zip(others, before, strict=True)
            ),
            20,
            "the others wait",
        )
    assert hanging.spool.sent_uris() == []
    held.gate.release()


@pytest.mark.timeout(300)
def test_fault_41_runs_in_every_kind_of_trouble_hold_up_none_of_thirty_others(
    recorders: Callable[..., Recorder], home: Home, far_end: FarEnd, marker: str
) -> None:
    poisoned, skewed, *good = [recorders() for _ in range(32)]
    eventually(lambda: all(recorder.spool.run().registration for recorder in (poisoned, skewed, *good)), 60)
    faulty = {poisoned: faults.s3_error("InvalidRequest", 400), skewed: faults.s3_error("RequestTimeTooSkewed", 403)}
    for recorder, fault in faulty.items():
        far_end.poison(run_of(far_end, recorder), fault)
    refused = recorders(token="a-token-that-nobody-knows")
    (engine,) = uploaders(marker)
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (FILE_MAX_BYTES, FILE_MAX_BYTES))
    full = spools.filled(home.spool_dir, [rows(number, 1) + b"9," + b"9" * FILE_MAX_BYTES + b"\n" for number in (1, 2)])
    damaged = spools.filled(home.spool_dir, [rows(number, 99) for number in range(50)])
    spools.overwrite_page(damaged, spools.leaves_holding(damaged, "batch")[1])
    in_trouble = {str(recorder.spool.path) for recorder in (poisoned, skewed, refused)}
    link = engine_link.find(home.spool_dir)
    assert link is not None
    for path in (full, damaged):
        link.tell(Delivery(far_end.token, far_end.api_url, far_end.s3_endpoint_url, 1.0, 30.0).order(path))
    told: dict[Recorder, list[bytes]] = {recorder: [] for recorder in good}
    for round_number in range(3):
        for number, recorder in enumerate((poisoned, skewed, refused, *good)):
            batch = append(recorder, 1000 * number + 10 * round_number)
            told.setdefault(recorder, []).append(batch)
        eventually(lambda n=round_number: all(len(each.spool.sent_uris()) > n for each in good), 40, "the others wait")
    eventually(lambda: in_trouble <= problems(home).keys(), 30, lambda: str(problems(home)))
    assert spools.aside(damaged), "it was recovered meanwhile"
    with closing(Spool(full)) as spool:
        eventually(spool.sent_uris, 30, "what is known of a run is noted where there is room for nothing else")
    assert uploaders(marker) == [engine]
    for recorder in good:
        end(recorder)
    assert all(recorder.wait_finished(60) for recorder in good)
    for recorder in good:
        judge(far_end, recorder, told[recorder])
    link.close()


def problems(home: Home) -> dict[str, str]:
    """What stands in each run's way, by its path."""
    (told,) = engine_link.ask_all(home.spool_dir, timeout_s=10)
    return {run["path"]: run["problem"] for run in told["runs"] if run["problem"]}


def test_end_is_not_waited_for_once_nobody_answers(recorders: Callable[..., Recorder], far_end: FarEnd) -> None:
    recorder = recorders()
    append(recorder, 0)
    far_end.down()
    waits: list[float] = []
    end(recorder)
    began_at = time.monotonic()
    assert recorder.wait_finished(60, on_wait=lambda: waits.append(time.monotonic() - began_at)) is None
    assert time.monotonic() - began_at < 20  # a refusal is met at once; what is left is a busy machine's
    assert len(waits) <= 1
    assert recorder.spool.run().state is RunState.ENDED


def test_sigterm_sends_what_is_there_and_the_run_goes_on(
    recorders: Callable[..., Recorder], far_end: FarEnd, marker: str
) -> None:
    """An interval of an hour: without the signal nothing would be sent."""
    recorder = recorders(interval_s=LONG_S)
    eventually(lambda: recorder.spool.run().registration is not None)
    batches = [append(recorder, 0, 35)]
    (process,) = uploaders(marker)
    kill(process, signal.SIGTERM)
    eventually(lambda: recorder.spool.sent_uris(), 15, "not sent before a SIGKILL would come")
    kill(process)
    batches.append(append(recorder, 100))
    end(recorder)
    assert recorder.wait_finished(40)
    judge(far_end, recorder, batches)


def test_offline_runs_that_have_ended_are_one_process_however_many(home: Home, marker: str, far_end: FarEnd) -> None:
    far_end.down()
    environment = surroundings(home, marker, far_end)
    for _ in range(6):
        command = [sys.executable, "-m", "streaming", "run", "--exit-wait", "0", "--", "true"]
        with start_program(command, environment) as program:
            program.wait().check_unfelt()
    assert len(uploaders(marker)) <= 1
    for process in uploaders(marker):
        kill(process)
    wait_gone(marker)


def next_turn_at(home: Home) -> float:
    runs = [run for told in engine_link.ask_all(home.spool_dir) for run in told["runs"]]
    return max((run["next_at"] or 0.0 for run in runs), default=0.0)


def test_drain_hurries_an_engine_that_waits(
    recorders: Callable[..., Recorder], home: Home, far_end: FarEnd, marker: str
) -> None:
    recorder = recorders(linger_s=600)
    far_end.always("register", faults.answer(503, headers={"Retry-After": "600"}))
    append(recorder, 0)
    end(recorder)
    assert recorder.wait_finished(3) is None
    recorder.close()
    far_end.clear()
    eventually(lambda: next_turn_at(home) > time.time() + 60, 10, lambda: str(engine_link.ask_all(home.spool_dir)))
    with start_program([sys.executable, "-m", "streaming", "drain"], surroundings(home, marker, far_end)) as program:
        result = program.wait()
    assert result.exit_code == 0, result.stdout
    assert b"delivered" in result.stdout


def test_stop_ends_it_and_the_next_run_starts_another(
    recorders: Callable[..., Recorder], home: Home, marker: str
) -> None:
    first = recorders(interval_s=LONG_S)
    eventually(lambda: first.uploader_pid)
    append(first, 0)
    number, left = engine_link.stop_all(home.spool_dir, timeout_s=30)
    assert (number, left) == (1, 0)
    assert first.spool.sent_uris(), "what was there is sent"
    eventually(lambda: not uploaders(marker))
    for _ in range(3):
        first.tend()
    assert not uploaders(marker), "a person ended it: a run that goes on does not start it again"
    second = recorders()
    eventually(lambda: second.uploader_pid)
    assert len(uploaders(marker)) == 1


def test_status_of_an_engine_names_its_runs_and_what_stands_in_their_way(
    recorders: Callable[..., Recorder], home: Home, far_end: FarEnd
) -> None:
    recorder = recorders()
    far_end.always("register", faults.answer(503))
    append(recorder, 0)

    def problem() -> str | None:
        told = engine_link.ask_all(home.spool_dir)
        return told[0]["runs"][0]["problem"] if told and told[0]["runs"] else None

    assert "503" in (eventually(problem) or "")
    (told,) = engine_link.ask_all(home.spool_dir)
    assert told["pid"] == recorder.uploader_pid
    assert told["runs"][0]["path"] == str(recorder.spool.path)


# -- where it is met ---------------------------------------------------------------------------------------------------


def test_socket_is_private_and_has_no_secret_name(recorders: Callable[..., Recorder], home: Home) -> None:
    recorder = recorders()
    eventually(lambda: recorder.uploader_pid)
    with runtime_folder() as folder:
        status = os.stat(folder)
        (name,) = engine_socket.names(home.spool_dir)
        assert stat.S_ISSOCK(os.stat(folder / name).st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert len(name) < 40


def test_temporary_directory_with_a_long_name_is_no_harm(
    home: Home, recorders: Callable[..., Recorder], far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = home.tmp_dir / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    recorder = recorders()
    append(recorder, 0)
    end(recorder)
    assert recorder.wait_finished(40)
    with runtime_folder() as folder:
        assert os.path.samefile(folder, deep / f"tracker-stream-{os.getuid()}")


@pytest.mark.parametrize("planted", ["open to others", "a link", "a file"])
def test_folder_that_is_not_ours_alone_is_not_used(home: Home, planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(home.tmp_dir))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    path = home.tmp_dir / f"tracker-stream-{os.getuid()}"
    if planted == "open to others":
        path.mkdir()
        path.chmod(0o777)
    elif planted == "a link":
        (home.tmp_dir / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(home.tmp_dir / "elsewhere")
    else:
        path.write_text("")
    with runtime_folder() as folder:
        assert not os.path.samefile(folder, path)


def test_stale_socket_of_a_killed_engine_is_replaced(
    recorders: Callable[..., Recorder], home: Home, far_end: FarEnd, marker: str
) -> None:
    first = recorders()
    eventually(lambda: first.uploader_pid)
    for process in uploaders(marker):
        kill(process)
    eventually(lambda: not uploaders(marker))
    assert engine_socket.names(home.spool_dir), "the socket of the dead is still there"
    eventually(lambda: not engine_link.ask_all(home.spool_dir))  # the kernel closes its socket a little later
    assert engine_link.find(home.spool_dir) is None
    second = recorders()
    append(second, 0)
    end(second)
    assert second.wait_finished(40)


@pytest.mark.parametrize(
    "setting",
    [
        "HTTPS_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "TRACKER_STREAM_SERVER_USER",
    ],
)
def test_other_network_settings_have_another_engine(home: Home, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    ended_run(home.spool_dir)
    name = engine_socket.socket_name(home.spool_dir)
    monkeypatch.setenv(setting, "other")
    another = engine_socket.socket_name(home.spool_dir)
    assert another != name
    monkeypatch.setenv(setting, "yet another")
    assert engine_socket.socket_name(home.spool_dir) not in (name, another)
    monkeypatch.delenv(setting)
    assert engine_socket.socket_name(home.spool_dir) == name
    other = home.path / "other"
    other.mkdir()
    assert engine_socket.socket_name(other) != name


def test_right_to_serve_is_one_processs_at_a_time(home: Home) -> None:
    ended_run(home.spool_dir)
    name = engine_socket.socket_name(home.spool_dir)
    claim = engine_socket.claim(name)
    assert claim is not None
    assert engine_socket.claim(name) is None
    child = os.fork()
    if child == 0:  # a program of many threads forks at the wrong moment: its copy must not keep the right
        time.sleep(20)
        os._exit(0)
    claim.release()
    again = eventually(lambda: engine_socket.claim(name))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert again is not None
    again.retire()
    with runtime_folder() as folder:
        assert not list(folder.glob(f"{name}*"))
