"""Faults 1 and 2, by name: a child dies (SIGKILL, no clean-up) right after each named step, somebody else goes on.

The steps are those that a complete run passes, so a step that is added to the product is swept without being listed.
"""

from pathlib import Path
from typing import Any

import pytest

from spool import RunState, Spool, directory
from tests.support import plays, recovery
from tests.support.far_end import FarEnd
from tests.support.nursery import End, Nursery, occurrences, order
from tests.support.oracle import Told
from tests.support.recovery import deliver_all, judge, only_spool, told

pytestmark = [
    pytest.mark.usefixtures("no_secret_on_disk"),
    pytest.mark.timeout(600),  # a sweep of processes, on a machine that may be busy
]
BATCHES = 5  # 0-2 under one header, 3-4 under another: two segments


def record(nursery: Nursery, directory: Path, kill_at: tuple[str, int] | None = None) -> End:
    directory.parent.mkdir(exist_ok=True)
    wanted = order("record", directory, kill_at=kill_at, acks=str(directory.parent / "acks"), batches=[0, BATCHES])
    return nursery.run(wanted)


def a_recorded_run(nursery: Nursery, directory: Path) -> Path:
    record(nursery, directory).require_success()
    return only_spool(directory)


def delivery_of(spool: Path, far_end: FarEnd, kill_at: tuple[str, int] | None = None) -> dict[str, Any]:
    where = {"api_url": far_end.api_url, "s3_endpoint_url": far_end.s3_endpoint_url, "token": far_end.token}
    return order("deliver", spool, kill_at=kill_at, **where)


def segmented(spool_path: Path) -> Path:
    """The run as it is when something was sealed before its end, so that it is not finished inline."""
    spool = Spool(spool_path)
    next(iter(spool.seal_pending()))
    spool.close()
    return spool_path


def test_fault_01_tracker_killed_after_any_step_of_recording_loses_no_acknowledged_batch(
    nursery: Nursery, tmp_path: Path
) -> None:
    points = occurrences(record(nursery, tmp_path / "whole" / "spools").require_success().steps)
    names = {name for name, _ in points}
    assert {"created", "append:inserted", "appended", "end:updated", "ended"} <= names
    for number, point in enumerate(points):
        place = tmp_path / f"killed-{number}"
        assert record(nursery, place / "spools", point).was_killed, point
        with FarEnd() as far_end:
            deliver_all(only_spool(place / "spools"), far_end)
            judge(far_end, told(place / "acks", up_to=BATCHES))


def test_fault_01_feeder_killed_after_any_step_takes_each_line_once(nursery: Nursery, tmp_path: Path) -> None:
    csv = b"".join(plays.header_of(number) + plays.rows_of(number) for number in range(BATCHES))
    points = occurrences(feed(nursery, tmp_path / "whole", csv).require_success().steps)
    assert ("feed:read", 1) in points
    for number, point in enumerate(points):
        place = tmp_path / f"killed-{number}"
        assert feed(nursery, place, csv, point).was_killed, point
        with FarEnd() as far_end:
            deliver_all(only_spool(place / "spools"), far_end)
            everything = recovery.lines(range(BATCHES))
            judge(far_end, Told(plays.HEADERS[0], everything))


def feed(nursery: Nursery, place: Path, csv: bytes, kill_at: tuple[str, int] | None = None) -> End:
    place.mkdir()
    csv_path = place / "rows.csv"
    csv_path.write_bytes(csv)
    spool = Spool.create(place / "spools", plays.new_run(csv_path=csv_path))
    spool.close()
    return nursery.run(order("feed", spool.path, kill_at=kill_at, csv_path=str(csv_path)))


@pytest.mark.parametrize("inline", [False, True], ids=["s3", "inline"])
def test_fault_02_uploader_killed_after_any_step_of_delivery_sends_the_same_bytes_under_the_same_keys(
    nursery: Nursery, tmp_path: Path, inline: bool
) -> None:
    for number, point in enumerate(delivery_points(nursery, tmp_path / "whole", inline)):
        place = tmp_path / f"killed-{number}"
        spool = a_run_to_deliver(nursery, place, inline)
        with FarEnd() as far_end:
            assert nursery.run(delivery_of(spool, far_end, point)).was_killed, point
            nursery.run(delivery_of(spool, far_end)).require_success()
            judge(far_end, told(place / "acks", up_to=BATCHES), run_status="finished", exit_code=0)
            assert len(far_end.runs) == 1, f"registered twice after {point}"
            assert_each_key_had_one_content(far_end)


def delivery_points(nursery: Nursery, place: Path, inline: bool) -> list[tuple[str, int]]:
    spool = a_run_to_deliver(nursery, place, inline)
    with FarEnd() as far_end:
        points = occurrences(nursery.run(delivery_of(spool, far_end)).require_success().steps)
    names = {name for name, _ in points}
    assert {
        "register:sending",
        "register:replied",
        "registered",
        "finish:sending",
        "finish:replied",
        "finished",
    } <= names
    if inline:
        return points[points.index(("registered", 1)) :]  # until there it is the same as with objects
    assert {"seal:inserted", "sealed", "upload:sending", "upload:replied", "mark:updated", "marked"} <= names
    return points


def a_run_to_deliver(nursery: Nursery, place: Path, inline: bool) -> Path:
    spool = a_recorded_run(nursery, place / "spools")
    return spool if inline else segmented(spool)


def assert_each_key_had_one_content(far_end: FarEnd) -> None:
    bodies: dict[str, set[str | None]] = {}
    for entry in far_end.journal.requests("put", stored=True):
        bodies.setdefault(entry.path, set()).add(entry.body_sha256)
    assert all(len(digests) == 1 for digests in bodies.values()), bodies


def test_fault_02_crash_after_put_uploads_same_key_again(nursery: Nursery, tmp_path: Path, far_end: FarEnd) -> None:
    spool = a_run_to_deliver(nursery, tmp_path, inline=False)
    assert nursery.run(delivery_of(spool, far_end, ("upload:replied", 1))).was_killed
    nursery.run(delivery_of(spool, far_end)).require_success()
    first, *later = far_end.journal.requests("put")
    again = [entry for entry in later if entry.path == first.path]
    assert again, "the object whose reply was never recorded was not sent again"
    assert {entry.body_sha256 for entry in again} == {first.body_sha256}
    judge(far_end, told(tmp_path / "acks", up_to=BATCHES), run_status="finished", exit_code=0)


def test_fault_02_crash_after_register_registers_with_the_same_idempotency_key(
    nursery: Nursery, tmp_path: Path, far_end: FarEnd
) -> None:
    spool = a_run_to_deliver(nursery, tmp_path, inline=False)
    assert nursery.run(delivery_of(spool, far_end, ("register:replied", 1))).was_killed
    nursery.run(delivery_of(spool, far_end)).require_success()
    keys = {entry.headers.get("idempotency-key") for entry in far_end.journal.requests("register")}
    assert len(far_end.journal.requests("register")) == 2
    assert len(keys) == 1
    assert None not in keys


@pytest.mark.parametrize("step", ["finish:replied", "finish:updated"])
def test_fault_32_killed_after_the_finish_was_answered_takes_409_as_finished(
    nursery: Nursery, tmp_path: Path, far_end: FarEnd, step: str
) -> None:
    spool = a_run_to_deliver(nursery, tmp_path, inline=False)
    assert nursery.run(delivery_of(spool, far_end, (step, 1))).was_killed
    nursery.run(delivery_of(spool, far_end)).require_success()
    assert [entry.status for entry in far_end.journal.requests("finish")] == [200, 409]
    assert state_of(spool) is RunState.FINISHED
    judge(far_end, told(tmp_path / "acks", up_to=BATCHES), run_status="finished", exit_code=0)


def test_fault_32_killed_between_finish_and_cleanup_releases_and_removes_what_is_left(
    nursery: Nursery, tmp_path: Path, far_end: FarEnd
) -> None:
    spool = a_run_to_deliver(nursery, tmp_path, inline=False)
    assert nursery.run(delivery_of(spool, far_end, ("finished", 1))).was_killed
    assert state_of(spool) is RunState.FINISHED
    for step in ("release:deleted", "released"):
        assert nursery.run(order("release", spool, kill_at=(step, 1))).was_killed
        assert state_of(spool) is RunState.FINISHED
    nursery.run(delivery_of(spool, far_end)).require_success()
    judge(far_end, told(tmp_path / "acks", up_to=BATCHES), run_status="finished", exit_code=0)
    assert len(far_end.journal.requests("finish")) == 1


def test_fault_32_killed_after_any_step_of_removal_leaves_a_spool_that_opens_or_none(
    nursery: Nursery, tmp_path: Path, far_end: FarEnd
) -> None:
    spool = a_run_to_deliver(nursery, tmp_path / "whole", inline=False)
    nursery.run(delivery_of(spool, far_end)).require_success()
    kept = {path.name: path.read_bytes() for path in spool.parent.iterdir()}
    points = occurrences(nursery.run(order("remove", spool)).require_success().steps)
    assert points[-1] == ("removed", 1)
    for point in points:
        for name, content in kept.items():
            (spool.parent / name).write_bytes(content)
            (spool.parent / name).chmod(0o600)
        assert nursery.run(order("remove", spool, kill_at=point)).was_killed, point
        assert not spool.exists() or state_of(spool) is RunState.FINISHED, point
        nursery.run(order("remove", spool)).require_success()
        assert [path.name for path in spool.parent.iterdir()] == [directory.MARK_NAME], point


def state_of(spool_path: Path) -> RunState:
    spool = Spool(spool_path)
    try:
        return spool.run().state
    finally:
        spool.close()
