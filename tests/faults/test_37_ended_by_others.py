"""Fault 37: a living run is ended by somebody else. Not a row is lost: it goes on as a new run that names the first."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Batch, RunState, Spool, SpoolError, directory
from spool.errors import RunEnded
from spool.model import Doubt
from streaming import StreamingManager
from streaming.collect.csv_tail import CsvFeeder
from tests.support import oracle, programs
from tests.support.far_end import FarEnd
from tests.support.nodes import start_on_node
from tests.support.oracle import Told
from tests.support.processes import Home, eventually, start_program, wait_gone
from tests.support.programs import recorded, surroundings
from tests.support.recorded import HEADER, rows
from tests.support.streamed import Streamed

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")
COMMAND = [sys.executable, "-m", "streaming"]


def end_as_failed(path: Path) -> None:
    """What a drain does that takes the tracker for dead."""
    with closing(Spool(path)) as spool:
        spool.end(exit_code=None, run_status="failed", ended_at=time.time())


def tags_of(path: Path) -> dict[str, Any]:
    with closing(Spool(path)) as spool:
        return dict(spool.run().metadata.get("tags") or {})


def runs_of(home: Home) -> list[Path]:
    """All runs, in the order in which they began (their names tell it to the second only)."""
    made = [path for path in directory.spool_paths(home.spool_dir) if path.stat().st_size]
    return sorted(made, key=began_at)


def began_at(path: Path) -> float:
    with closing(Spool(path)) as spool:
        return spool.run().started_at


@pytest.fixture
def streamed(far_end: FarEnd, home: Home, marker: str) -> Iterator[Streamed]:
    with Streamed(far_end, home, marker) as made:
        yield made


def judge_chain(far_end: FarEnd, batches: list[list[bytes]], *, exit_code: int | None = 0) -> None:
    """Each run of the chain holds its batches, all but the last are ended as failed, the last with its true end."""
    runs = sorted(far_end.runs, key=lambda run: "continues" in (run.metadata.get("tags") or {}))  # the first one first
    for number, (run, own) in enumerate(zip(runs, batches, strict=True)):
        is_last = number == len(batches) - 1
        oracle.judge(
            far_end.evidence(run.run_id),
            Told(HEADER, own),
            run_status="finished" if is_last else "failed",
            exit_code=exit_code if is_last else None,
        )


# -- StreamingManager --------------------------------------------------------------------------------------------------


def test_fault_37_append_goes_on_in_a_new_run_that_names_the_first(
    streamed: Streamed, far_end: FarEnd, home: Home, marker: str
) -> None:
    for round_number in range(3):
        streamed.append()
        far_end.journal.wait_for_count("register", round_number + 1, 30)
        if round_number < 2:
            end_as_failed(runs_of(home)[-1])
    first_id = far_end.runs[0].run_id
    assert streamed.manager.wait_until_registered(30) not in (None, first_id)
    assert streamed.stop()
    wait_gone(marker)
    assert len(runs_of(home)) == 3
    name = directory.short_name(runs_of(home)[0])
    assert [run.metadata.get("tags", {}).get("continues") for run in far_end.runs] == [None, name, name]
    assert {run.metadata["job_name"] for run in far_end.runs} == {"faults"}
    judge_chain(far_end, [[batch] for batch in streamed.batches])


def test_fault_37_true_end_is_told_by_a_run_of_its_own(
    streamed: Streamed, far_end: FarEnd, home: Home, marker: str
) -> None:
    """Nothing was appended after the wrong guess: only the exit code is left to be told."""
    streamed.append()
    far_end.journal.wait_for_count("register", 1, 30)
    end_as_failed(streamed.path)
    assert streamed.manager.stop(exit_code=0)
    wait_gone(marker)
    judge_chain(far_end, [streamed.batches, []])
    assert tags_of(runs_of(home)[1]) == {"continues": directory.short_name(runs_of(home)[0])}


def test_fault_37_run_that_we_have_ended_takes_no_more_rows_and_has_no_successor(
    streamed: Streamed, home: Home
) -> None:
    streamed.append()
    assert streamed.stop()
    with pytest.raises(SpoolError, match="has ended"):
        streamed.append()
    assert len(runs_of(home)) == 1


@pytest.mark.parametrize("ended_after", [0, 3, 7], ids=["before a row was taken", "in between", "late"])
def test_fault_37_csv_goes_on_where_the_ended_run_left_it(
    far_end: FarEnd, home: Home, marker: str, ended_after: int
) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER)
    manager = StreamingManager(
        far_end.token,
        str(csv_path),
        upload_interval=1,
        spool_interval=0.05,
        host_info={},
        cloud_info={},
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )
    manager.start()
    (first,) = runs_of(home)
    for number in range(10):
        if number == ended_after:
            end_as_failed(first)
        with csv_path.open("ab") as file:
            file.write(rows(number, 1))
        eventually(lambda count=number + 1: sum(map(row_count, runs_of(home))) == count)
    with csv_path.open("ab") as file:
        file.write(b"10,100")  # no line end: a row all the same, at the end
    assert manager.stop(exit_code=3)
    wait_gone(marker)
    parts = [rows(0, ended_after), rows(ended_after, 11 - ended_after)]
    judge_chain(far_end, [[part] if part else [] for part in parts], exit_code=3)


@pytest.mark.parametrize("ends_it", [True, False])
def test_fault_37_rows_of_the_csv_that_others_took_are_not_taken_twice(
    far_end: FarEnd, home: Home, marker: str, ends_it: bool
) -> None:
    """Who takes a tracker for dead takes the rest of its file, too; and may itself be killed before it ends the run."""
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + rows(0, 5))
    manager = StreamingManager(
        far_end.token,
        str(csv_path),
        spool_interval=1.0,
        upload_interval=1,
        host_info={},
        cloud_info={},
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )
    manager.start()
    (first,) = runs_of(home)
    eventually(lambda: row_count(first) == 5)
    with csv_path.open("ab") as file:
        file.write(rows(5, 3))
    with closing(Spool(first)) as spool:  # before the tracker looks again
        CsvFeeder(spool, csv_path).take()
    if ends_it:
        end_as_failed(first)
    with csv_path.open("ab") as file:
        file.write(rows(8, 2))
    eventually(lambda: sum(map(row_count, runs_of(home))) >= 10)
    assert manager.stop()
    wait_gone(marker)
    batches = [[rows(0, 8)], [rows(8, 2)]] if ends_it else [[rows(0, 10)]]
    judge_chain(far_end, batches)


def remove(path: Path) -> None:
    """What becomes of a run that was drained, once it is old enough, or `clean` is told to."""
    end_as_failed(path)
    directory.remove(path)


@pytest.mark.parametrize("more_rows", [True, False])
@pytest.mark.parametrize("way", ["append", "csv"])
def test_fault_37_run_that_was_ended_and_removed_goes_on_as_well(
    far_end: FarEnd, home: Home, marker: str, way: str, more_rows: bool
) -> None:
    csv_path = home.path / "rows.csv"
    manager = StreamingManager(
        far_end.token,
        str(csv_path) if way == "csv" else None,
        metadata={"job_name": "train"},
        spool_interval=0.05,
        upload_interval=1,
        host_info={},
        cloud_info={},
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )

    def add(first: int, count: int) -> None:
        if way == "append":
            manager.append(HEADER + rows(first, count))
        else:
            with csv_path.open("ab") as file:
                file.write((b"" if first else HEADER) + rows(first, count))

    manager.start()
    add(0, 3)
    far_end.journal.wait_for_count("put", 1, 40)
    remove(runs_of(home)[0])
    if more_rows:
        add(3, 4)
    assert manager.stop(exit_code=5, run_status="failed")
    wait_gone(marker)
    last = far_end.runs[-1]
    expected = Told(HEADER, [rows(3, 4)] if more_rows else [])
    oracle.judge(far_end.evidence(last.run_id), expected, run_status="failed", exit_code=5)
    assert (len(far_end.runs), last.metadata["job_name"]) == (2, "train")


def row_count(path: Path) -> int:
    return len(recorded(path).acknowledged)


def test_fault_37_next_run_knows_how_far_the_csv_was_taken_from_its_first_moment(
    far_end: FarEnd, home: Home, marker: str
) -> None:
    """Its tracker may die at once: whoever takes over must not read the file from its beginning."""
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + rows(0, 5))
    environment = surroundings(home, marker, far_end)
    with start_program([sys.executable, "-c", DYING, str(csv_path)], environment) as program:
        assert program.wait().exit_code == -9
    with start_program([*COMMAND, "drain"], environment) as program:
        program.wait().check_unfelt()
    wait_gone(marker)
    lines = [line for run in far_end.runs for line in oracle.delivered(far_end.evidence(run.run_id))]
    expected = [(HEADER, row) for row in oracle.split_rows(rows(0, 10))]
    assert sorted(lines) == sorted(expected)  # the two runs may be registered in either order


DYING = """
import os, pathlib, signal, sys, time
from contextlib import closing
import streaming
from spool import Spool, directory

def die(name):
    if name == "created":
        os.kill(os.getpid(), signal.SIGKILL)

path = pathlib.Path(sys.argv[1])
manager = streaming.StreamingManager(os.environ["SENTINEL_API_TOKEN"], str(path), spool_interval=0.05,
                                     host_info={}, cloud_info={})
manager.start()
spool = manager._recorder.spool
while spool.csv_offset() < path.stat().st_size:
    time.sleep(0.01)
spool.step = die
with closing(Spool(spool.path)) as other:
    other.end(exit_code=None, run_status="failed", ended_at=time.time())
with path.open("ab") as file:
    file.write(b"".join(b"%d,%d\\n" % (number, number * number) for number in range(5, 10)))
time.sleep(30)
"""


# -- run, track, attach ------------------------------------------------------------------------------------------------

TRACKED = """
import sys, streaming
with streaming.track(job_name="train", interval=0.1, tags={"fold": 3}, host_info={}, cloud_info={}):
    print("ready", flush=True)
    sys.stdin.readline()
    raise SystemExit(7)
"""
WAITING = "import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit(7)"


@pytest.mark.parametrize("way", ["run", "track", "attach"])
def test_fault_37_offline_run_on_a_node_that_the_login_node_ends_loses_nothing(
    far_end: FarEnd, home: Home, marker: str, way: str
) -> None:
    """As it was seen: `drain --ended` on a login node, while an offline job ran on a compute node."""
    environment = surroundings(home, marker, far_end)
    offline = {**environment, "TRACKER_STREAM_MODE": "offline", "SENTINEL_API_TOKEN": ""}
    options = ["-i", "0.1", "--job-name", "train", "--tag", "fold=3"]
    command: list[str | Path] = [sys.executable, "-c", TRACKED]
    if way == "run":
        command = [*COMMAND, "run", *options, "--", sys.executable, "-c", WAITING]
    elif way == "attach":
        command = [sys.executable, "-c", ATTACHED, json.dumps([*COMMAND, "attach", *options])]
    with start_on_node("n1", command, offline, stdin=True) as job:
        programs.read_until(job, "ready")
        eventually(lambda: runs_of(home) and row_count(runs_of(home)[0]) > 3)
        (first,) = runs_of(home)
        with start_on_node("login", [*COMMAND, "drain", "--ended", first.stem], environment) as drain:
            drain.wait().check_unfelt()
        eventually(lambda: len(runs_of(home)) == 2 and row_count(runs_of(home)[1]) > 3)
        job.say("go on")
        ended = job.wait()
        assert b"rows.lost" not in ended.stderr
        if way != "attach":
            ended.check_unfelt(exit_code=7)
    wait_gone(marker)
    with start_on_node("login", [*COMMAND, "drain"], environment) as drain:
        drain.wait().check_unfelt()
    first, second = runs_of(home)
    true_end = ("finished", None) if way == "attach" else ("failed", 7)
    for path, run, (status, code) in zip((first, second), far_end.runs, [("failed", None), true_end], strict=True):
        oracle.judge(far_end.evidence(run.run_id), recorded(path), run_status=status, exit_code=code)
        assert run.metadata["job_name"] == "train"
        assert str(run.metadata["tags"]["fold"]) == "3"
    assert far_end.runs[1].metadata["tags"]["continues"] == directory.short_name(first)
    times = [float(row.partition(b",")[0]) for path in (first, second) for _, row in recorded(path).acknowledged]
    assert times == sorted(set(times)), "each sample once, in order"


ATTACHED = """
import json, os, subprocess, sys
command = [*json.loads(sys.argv[1]), "--pid", str(os.getpid())]
with subprocess.Popen(command, stdin=subprocess.DEVNULL) as tracker:
    print("ready", flush=True)
    sys.stdin.readline()
    tracker.terminate()
"""


# -- the spool's part --------------------------------------------------------------------------------------------------


def test_fault_37_end_says_whether_it_is_the_recorded_one(home: Home) -> None:
    from tests.support import plays

    with closing(Spool.create(home.spool_dir, plays.new_run())) as spool:
        assert spool.end(exit_code=3, run_status="failed", ended_at=1.0)
        assert spool.end(exit_code=3, run_status="failed", ended_at=2.0)
        assert not spool.end(exit_code=0, run_status="finished", ended_at=3.0)
        assert (spool.run().exit_code, spool.run().ended_at) == (3, 1.0)
        assert spool.run().state is RunState.ENDED
        with pytest.raises(SpoolError) as told:
            spool.append([Batch(HEADER, rows(0, 2))], csv_offset=17)
        assert (told.value.left, told.value.csv_offset) == ([Batch(HEADER, rows(0, 2))], 17)  # type: ignore[attr-defined]


def test_fault_37_rows_that_an_io_error_left_in_doubt_are_not_left_over_twice(home: Home) -> None:
    """They are in the run that was ended: however often they are appended again, only what came behind them is left."""
    from tests.support import plays

    with closing(Spool.create(home.spool_dir, plays.new_run())) as spool:
        spool.append([Batch(HEADER, rows(0, 2))])
        spool._doubt = Doubt((Batch(HEADER, rows(0, 2)),), 1)  # as if its COMMIT had reported an error
        end_as_failed(spool.path)
        for _ in range(2):
            with pytest.raises(RunEnded) as told:
                spool.append([Batch(HEADER, rows(0, 2) + rows(2, 3))])
            assert list(told.value.left) == [Batch(HEADER, rows(2, 3))]
        spool.append([Batch(HEADER, rows(0, 2))])  # all of them are there
        assert row_count(spool.path) == 2
