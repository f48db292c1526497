"""A run's state for people."""

from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, Registration, Spool, Tracker, ownership, system
from streaming.read.status import Condition, exit_code_of, summaries, summarize
from tests.support.processes import Home
from tests.support.runs import HEADER, dead_run, dead_tracker, ended_run, live_run, make_run

ELSEWHERE = Tracker(pid=1, started_at="1", boot_id="b", pid_namespace="n", host="another/machine")


def test_live_run_is_recording_and_not_left(home: Home) -> None:
    found = summarize(live_run(home.spool_dir, row_count=5))
    assert (found.condition, found.counts.recorded, found.exit_code) == (Condition.RECORDING, 5, 0)


def test_live_run_in_trouble_is_left(home: Home) -> None:
    path = live_run(home.spool_dir)
    with closing(Spool(path)) as spool:
        spool.note_problem("the service cannot be reached (DNS)", cause="DNS")
    found = summarize(path)
    assert (found.condition, found.cause, found.exit_code) == (Condition.RECORDING, "DNS", 3)


def test_run_whose_token_is_refused_counts_more_than_others_in_trouble(home: Home) -> None:
    refused, waiting, damaged = ended_run(home.spool_dir), ended_run(home.spool_dir), ended_run(home.spool_dir)
    with closing(Spool(refused)) as spool:
        spool.note_problem("the service refuses the token", cause="token refused")
    damaged.write_bytes(b"not a database at all" * 100)
    found = [summarize(path) for path in (waiting, refused, damaged)]
    assert [run.exit_code for run in found] == [3, 4, 1]
    assert [exit_code_of(found), exit_code_of([found[0], found[2]]), exit_code_of([])] == [4, 3, 0]


@pytest.mark.parametrize("make", [dead_run, ended_run])
def test_run_without_its_tracker_waits(home: Home, make: object) -> None:
    found = summarize(make(home.spool_dir, row_count=7))  # type: ignore[operator]
    assert (found.condition, found.counts.waiting, found.exit_code, found.cause) == (
        Condition.WAITING,
        7,
        3,
        "no token",
    )


def test_run_on_another_machine_records_until_it_is_silent_for_a_day(home: Home) -> None:
    path = make_run(home.spool_dir, tracker=ELSEWHERE)
    with closing(Spool(path)) as spool:
        started_at = spool.run().started_at
    assert summarize(path).condition is Condition.RECORDING
    assert summarize(path, clock=lambda: started_at + 90_000).condition is Condition.WAITING


def test_acknowledged_run_is_delivered(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    with closing(Spool(path)) as spool:
        spool.register(Registration("r1", "s3://bucket/r1"))
        spool.finish({"ok": True})
    found = summarize(path)
    assert (found.condition, found.counts.sent, found.counts.waiting) == (Condition.DELIVERED, 3, 0)
    assert found.as_json(0.0)["run_id"] == "r1"


def test_parked_run_has_failed(home: Home) -> None:
    path = ended_run(home.spool_dir)
    with closing(Spool(path)) as spool:
        spool.park("the service does not know this run any more")
    found = summarize(path)
    assert (found.condition, found.cause, found.exit_code) == (Condition.FAILED, "parked", 1)


def test_refused_segment_makes_it_failed_even_when_it_is_finished(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    with closing(Spool(path)) as spool:
        for segment in spool.seal_pending():
            spool.count_refusal(segment, "S3 answered 400")
            spool.reject(segment, "refused 3 times while other objects went through")
        spool.register(Registration("r1", "s3://bucket/r1"))
        spool.finish({})
    found = summarize(path)
    assert (found.condition, found.cause, found.exit_code) == (Condition.FAILED, "refused for good", 1)


def test_damaged_rows_make_it_damaged(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    with closing(Spool(path)) as spool:
        with spool.connection.transaction() as db:
            db.execute("UPDATE batch SET csv = replace(csv, '1', '2')")
        assert list(spool.seal_pending()) == []
    assert summarize(path).condition is Condition.DAMAGED


def test_file_that_is_no_spool_is_told_and_stops_nobody(home: Home) -> None:
    good = ended_run(home.spool_dir)
    bad = home.spool_dir / "20260101-000000-0000000000000000.spool"
    bad.write_bytes(b"not a database at all" * 100)
    bad.chmod(0o600)
    found = {summary.path: summary.condition for summary in summaries(home.spool_dir)}
    assert found == {bad: Condition.DAMAGED, good: Condition.WAITING}


def test_symlink_is_unreadable(home: Home, tmp_path: Path) -> None:
    good = ended_run(home.spool_dir)
    link = home.spool_dir / "20260101-000000-0000000000000000.spool"
    link.symlink_to(good)
    assert summarize(link).condition is Condition.UNREADABLE


def test_duration_of_a_dead_run_ends_with_its_last_row(home: Home) -> None:
    path = dead_run(home.spool_dir, started_at=1000.0)
    with closing(Spool(path, clock=lambda: 1060.0)) as spool:
        spool.append([Batch(HEADER, b"1,2,3\n")])
    assert summarize(path).duration_s(now=9e9) == pytest.approx(60.0)


def test_owned_run_is_being_delivered(home: Home) -> None:

    path = ended_run(home.spool_dir)
    with ownership.own(path):
        assert summarize(path).is_owned
    assert not summarize(path).is_owned
    assert system.is_here(dead_tracker())
