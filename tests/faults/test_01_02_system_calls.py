"""Faults 1 and 2, blindly: a child is killed at a system call, whichever it is. Fault 11: a sync fails."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Spool
from tests.support import oracle, plays, tracing
from tests.support.far_end import FarEnd
from tests.support.nursery import Nursery, order
from tests.support.oracle import Told
from tests.support.recovery import BEFORE, acknowledged, deliver_from_memory, judge, lines, told

UP_TO = 4  # it appends 2 and 3; 3 begins a new header
APPEND_SAMPLE = 45
DELIVERY_SAMPLE = 6
CALLS_THAT_COME_AND_GO = 2  # of a sample: which memory is freed when is the interpreter's choice

pytestmark = pytest.mark.timeout(600)  # a sweep of processes, on a machine that may be busy


@pytest.fixture(autouse=True)
def strace() -> None:
    tracing.require_strace()


def appending(spool: Path, batches: tuple[int, int] = (BEFORE, UP_TO)) -> dict[str, object]:
    return order("append", spool, acks=str(spool.parent / "acks"), batches=batches)


def test_fault_01_tracker_killed_at_any_system_call_of_an_append_loses_no_acknowledged_batch(
    nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = tmp_path / "trace"
    tracing.run_traced(nursery, appending(a_copy("whole")), whole, options=[]).require_success()
    points = tracing.points(tracing.calls(whole))
    assert len(points) > 100
    outcomes, unreached = set(), 0
    for number, (name, nth) in enumerate(some(points[:-1], APPEND_SAMPLE)):
        spool = a_copy(f"killed-{number}")
        end = tracing.run_traced(nursery, appending(spool), tmp_path / "kill", options=tracing.inject_kill(name, nth))
        unreached += not end.was_killed
        far_end = deliver_from_memory(spool)
        oracle.judge(far_end.evidence(), told(spool.parent / "acks", up_to=UP_TO), run_status="failed", exit_code=None)
        outcomes.add(len(acknowledged(spool.parent / "acks")))
        shutil.rmtree(spool.parent)
    assert unreached <= CALLS_THAT_COME_AND_GO
    assert outcomes == {BEFORE, BEFORE + 1, UP_TO}, "the sweep did not reach every stage"


def test_fault_02_uploader_killed_at_system_calls_of_a_delivery_sends_the_same_bytes_again(
    nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    with FarEnd() as far_end:
        whole = tmp_path / "trace"
        spool = a_sealed_copy(a_copy, "whole")
        tracing.run_traced(nursery, delivering(spool, far_end), whole, options=[]).require_success()
    points = tracing.points(tracing.calls(whole))[:-1]
    unreached = 0
    for number, (name, nth) in enumerate(some(points, DELIVERY_SAMPLE)):
        spool = a_sealed_copy(a_copy, f"killed-{number}")
        with FarEnd() as far_end:
            options = tracing.inject_kill(name, nth)
            end = tracing.run_traced(nursery, delivering(spool, far_end), tmp_path / "kill", options=options)
            unreached += not end.was_killed
            nursery.run(delivering(spool, far_end)).require_success()
            judge(far_end, Told(plays.HEADERS[0], lines(range(UP_TO))), run_status="finished", exit_code=0)
    assert unreached <= CALLS_THAT_COME_AND_GO


def a_sealed_copy(a_copy: Callable[[str], Path], name: str) -> Path:
    """Four batches under two headers, the first segment sealed, the run ended."""
    path = a_copy(name)
    with closing(Spool(path)) as spool:
        for number in range(BEFORE, UP_TO):
            spool.append([plays.batch_of(number)])
        next(iter(spool.seal_pending()))
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    return path


def some(points: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    """So many of the points, evenly spread; all with SWEEP_EVERYTHING=1."""
    if os.environ.get("SWEEP_EVERYTHING"):
        return points
    return points[:: max(1, len(points) // count)]


def delivering(spool: Path, far_end: FarEnd) -> dict[str, object]:
    where: dict[str, Any] = {
        "api_url": far_end.api_url,
        "s3_endpoint_url": far_end.s3_endpoint_url,
        "token": far_end.token,
    }
    return order("deliver", spool, **where)


SYNCS = "fsync,fdatasync"
SYNCS_OF_ONE_COMMIT = 4  # at least: the journal (twice), the database, the journal's zeroed header
UNDER_ONE_HEADER = (3, 6)


def test_fault_11_failed_sync_is_repeated_without_losing_or_doubling_a_row(
    nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    refused = 0
    for nth in range(1, sync_count(nursery, a_copy, tmp_path) + 1):
        spool = a_copy(f"failed-{nth}")
        options = tracing.inject_error(SYNCS, "EIO", nth)
        end = tracing.run_traced(nursery, persisting(spool), tmp_path / "fail", options=options).require_success()
        assert "INJECTED" in (tmp_path / "fail").read_text()
        refused += end.steps.count("refused")
        assert_each_row_once(spool)
    assert refused, "no append was refused: its failed sync was hushed up"


def test_fault_11_syncs_that_fail_for_a_while_neither_lose_nor_double_a_row(
    nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    for nth in range(1, sync_count(nursery, a_copy, tmp_path) + 1):
        spool = a_copy(f"failing-{nth}")
        options = tracing.inject_error(SYNCS, "EIO", f"{nth}..{nth + 7}")
        tracing.run_traced(nursery, persisting(spool), tmp_path / "fail", options=options).require_success()
        assert_each_row_once(spool)


def test_fault_11_sync_that_fails_while_the_end_is_recorded_does_not_cost_the_exit_code(
    nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    for nth in range(1, SYNCS_OF_ONE_COMMIT + 1):
        spool = a_copy(f"ended-{nth}")
        options = tracing.inject_error(SYNCS, "EIO", nth)
        tracing.run_traced(nursery, order("end", spool), tmp_path / "fail", options=options).require_success()
        assert "INJECTED" in (tmp_path / "fail").read_text()
        far_end = deliver_from_memory(spool)
        everything = Told(plays.HEADERS[0], lines(range(BEFORE)))
        oracle.judge(far_end.evidence(), everything, run_status="failed", exit_code=7)


def sync_count(nursery: Nursery, a_copy: Callable[[str], Path], tmp_path: Path) -> int:
    options = ["-e", f"trace={SYNCS}"]
    tracing.run_traced(nursery, persisting(a_copy("whole")), tmp_path / "trace", options=options).require_success()
    count = (tmp_path / "trace").read_text().count("sync(")
    assert count >= 3 * (UNDER_ONE_HEADER[1] - UNDER_ONE_HEADER[0])
    return count


def persisting(spool: Path) -> dict[str, object]:
    acks = str(spool.parent / "acks")
    return order("append_persistently", spool, acks=acks, batches=UNDER_ONE_HEADER, tries=20)


def assert_each_row_once(spool: Path) -> None:
    numbers = [*range(BEFORE), *range(*UNDER_ONE_HEADER)]
    assert acknowledged(spool.parent / "acks") == numbers
    far_end = deliver_from_memory(spool)
    oracle.judge(far_end.evidence(), Told(plays.HEADERS[0], lines(numbers)), run_status="failed", exit_code=None)
