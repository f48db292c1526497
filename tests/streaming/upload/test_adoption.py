"""Runs whose tracker died: how they end, who delivers them, and that nothing of it harms the own run."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Batch, NewRun, RunState, Spool, ownership, system
from spool.directory import LOCK_SUFFIX, SUFFIX
from streaming.collect.csv_tail import CsvFeeder
from streaming.upload.adoption import end_dead_run
from streaming.upload.model import Outcome
from tests.support import faults, oracle
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home
from tests.support.recorded import connect
from tests.support.runs import HEADER, dead_run, dead_tracker, elsewhere, live_run, make_run, rows
from tests.support.turns import adopt_all


@pytest.fixture
def clients(far_end: FarEnd) -> Iterator[Clients]:
    made = connect(far_end)
    yield made
    made.reset()


def adopt(home: Home, far_end: FarEnd, clients: Clients) -> dict[Path, Outcome]:
    turns = adopt_all(home.spool_dir, far_end.token, clients, api_url=far_end.api_url)
    return {path: turn.outcome for path, turn in turns.items()}


def left_behind(home: Home, far_end: FarEnd, count: int = 1, **more: Any) -> list[Path]:
    options = {"token": far_end.token, "api_url": far_end.api_url, **more}
    return [dead_run(home.spool_dir, started_at=1e9 + number, **options) for number in range(count)]


def state_of(path: Path) -> RunState:
    with closing(Spool(path)) as spool:
        return spool.run().state


# -- ending ------------------------------------------------------------------------------------------------------------


def test_dead_run_ends_as_failed_at_its_last_row(home: Home) -> None:
    with closing(Spool(dead_run(home.spool_dir))) as spool:
        before = time.time()
        end_dead_run(spool)
        run = spool.run()
    assert (run.state, run.run_status, run.exit_code) == (RunState.ENDED, "failed", None)
    assert run.ended_at is not None
    assert before - 60 < run.ended_at <= before


def test_ended_run_keeps_its_end(home: Home) -> None:
    path = dead_run(home.spool_dir, run_status="finished", exit_code=7)
    with closing(Spool(path)) as spool:
        end_dead_run(spool)
        assert (spool.run().run_status, spool.run().exit_code) == ("finished", 7)


def csv_run(home: Home, csv_path: Path) -> Spool:
    """A dead run that had taken two rows of a CSV file."""
    new = NewRun(tracker=dead_tracker(), started_at=time.time(), csv_path=str(csv_path))
    spool = Spool.create(home.spool_dir, new)
    spool.append([Batch(HEADER, rows(2))], csv_offset=len(HEADER + rows(2)))
    return spool


def test_tail_of_the_csv_is_taken_over(home: Home) -> None:
    csv_path = home.path / "metrics.csv"
    csv_path.write_bytes(HEADER + rows(5) + b"17000")
    with closing(csv_run(home, csv_path)) as spool:
        end_dead_run(spool)
        (segment,) = spool.seal_pending()
        assert spool.csv(segment) == HEADER + rows(5)


def test_tail_of_a_csv_that_was_replaced_under_another_header_is_taken_over(home: Home) -> None:
    csv_path = home.path / "metrics.csv"
    csv_path.write_bytes(HEADER + rows(2))
    with closing(csv_run(home, csv_path)) as spool:
        feeder = CsvFeeder(spool, csv_path)
        csv_path.write_bytes(b"time,c\n7,x\n")
        feeder.take()
        csv_path.write_bytes(b"time,c\n7,x\n8,tail\n")
        end_dead_run(spool)
        segments = list(spool.seal_pending())
        assert [spool.csv(segment) for segment in segments] == [HEADER + rows(2), b"time,c\n7,x\n8,tail\n"]


@pytest.mark.parametrize("what", ["another file", "gone", "a directory"])
def test_file_that_is_not_the_runs_csv_is_not_read(home: Home, what: str, caplog: pytest.LogCaptureFixture) -> None:
    csv_path = home.path / "metrics.csv"
    if what == "another file":
        csv_path.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n" * 100)
    elif what == "a directory":
        csv_path.mkdir()
    with closing(csv_run(home, csv_path)) as spool:
        end_dead_run(spool)
        (segment,) = spool.seal_pending()
        assert spool.csv(segment) == HEADER + rows(2)
    assert "csv.not_recognised" in caplog.text


# -- adoption ----------------------------------------------------------------------------------------------------------


def test_runs_left_behind_are_delivered_oldest_first(home: Home, far_end: FarEnd, clients: Clients) -> None:
    paths = left_behind(home, far_end, 3)
    adopt(home, far_end, clients)
    assert [state_of(path) for path in paths] == [RunState.FINISHED] * 3
    with closing(Spool(paths[0])) as spool:
        assert far_end.runs[0].idempotency_key == spool.run().spool_id
    for run in far_end.runs:
        oracle.judge(far_end.evidence(run.run_id), Told(HEADER, [rows(10)]), run_status="failed", exit_code=None)


def test_runs_of_others_are_left_alone(home: Home, far_end: FarEnd, clients: Clients) -> None:
    left_behind(home, far_end, token="another token")
    left_behind(home, far_end, token=None)
    left_behind(home, far_end, api_url="https://another-service.example")
    live_run(home.spool_dir, token=far_end.token, api_url=far_end.api_url)
    make_run(
        home.spool_dir,
        tracker=elsewhere(system.identify(os.getpid())),
        token=far_end.token,
        api_url=far_end.api_url,
    )
    adopt(home, far_end, clients)
    assert far_end.journal.count() == 0


def test_run_that_another_process_delivers_is_left_alone(home: Home, far_end: FarEnd, clients: Clients) -> None:
    (path,) = left_behind(home, far_end)
    with ownership.own(path):
        adopt(home, far_end, clients)
    assert far_end.journal.count() == 0


def test_outage_is_told_of_each_and_it_goes_on_later(home: Home, far_end: FarEnd, clients: Clients) -> None:
    paths = left_behind(home, far_end, 3)
    with far_end.always("register", faults.answer(503)):
        assert set(adopt(home, far_end, clients).values()) == {Outcome.WAITING}
    adopt(home, far_end, clients)
    assert [state_of(path) for path in paths] == [RunState.FINISHED] * 3


def test_no_bad_file_in_the_directory_stops_the_others(home: Home, far_end: FarEnd, clients: Clients) -> None:
    (home.spool_dir).mkdir(mode=0o700)
    bad = [home.spool_dir / f"20000101-00000{number}-{'0' * 16}{SUFFIX}" for number in range(5)]
    bad[0].write_bytes(b"not a database" * 1000)
    bad[1].write_bytes(b"")
    bad[2].symlink_to("/etc/passwd")
    bad[3].mkdir()
    (broken,) = left_behind(home, far_end)
    broken.rename(bad[4])
    with closing(Spool(bad[4])) as spool, spool.connection.transaction() as db:
        db.execute("UPDATE run SET metadata = '{', tracker = '[]'")
    locked, good = left_behind(home, far_end, 2)
    locked.with_suffix(LOCK_SUFFIX).symlink_to("/etc/passwd")
    adopt(home, far_end, clients)
    assert state_of(good) is RunState.FINISHED
    assert state_of(bad[4]) is RunState.FINISHED, "a record that makes no sense is damage: its rows go"
    assert far_end.journal.count("register") == 2


def test_parked_run_is_left_to_people(home: Home, far_end: FarEnd, clients: Clients) -> None:
    (path,) = left_behind(home, far_end)
    far_end.fail_next("register", faults.answer(422))
    adopt(home, far_end, clients)
    adopt(home, far_end, clients)
    adopt(home, far_end, clients)
    assert far_end.journal.count("register") == 1
    with closing(Spool(path)) as spool:
        assert spool.run().parked
