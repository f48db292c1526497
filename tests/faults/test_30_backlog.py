"""Fault 30: a backlog of many batches, over a slow link: flat memory, oldest first, and a start that does not wait for it."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, NewRun, Spool, system
from streaming.upload.model import Outcome
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, clean_environment, run_script
from tests.support.recorded import HEADER, STARTED_AT, Recorded, Waits, append, drain, record, rows
from tests.support.runs import dead_tracker

BATCH_ROWS = 3000
APPENDED_AT_ONCE = 20_000

# A drain in a process of its own, which tells how much memory it took at most.
DRAIN = """
import json, re, sys
from pathlib import Path
from streaming import config
from tests.support.clients import Clients
from tests.support.turns import NoWait, drain_run
clients = Clients.connect(config.token_from_environment(), api_url=config.api_url(), s3_endpoint_url=config.s3_endpoint_url())
outcome = drain_run(Path(sys.argv[1]), clients, NoWait(), api_url=config.api_url())
# Not ru_maxrss: that counts what the parent had when it forked.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"outcome": outcome.value, "peak_kib": int(peak.group(1))}))
"""


def backlog(spool_dir: Path, far_end: FarEnd, batches: list[bytes], *, has_ended: bool = True) -> Recorded:
    """A run of these batches, appended many at a time (one transaction), nothing sealed."""
    new = NewRun(tracker=dead_tracker(), started_at=STARTED_AT, token=far_end.token, api_url=far_end.api_url)
    with closing(Spool.create(spool_dir, new)) as spool:
        for first in range(0, len(batches), APPENDED_AT_ONCE):
            spool.append([Batch(HEADER, batch) for batch in batches[first : first + APPENDED_AT_ONCE]])
        if has_ended:
            spool.end(exit_code=0, run_status="finished", ended_at=STARTED_AT + 60)
    return Recorded(spool.path, Told(HEADER, batches))


def large_batches(megabytes: int) -> list[bytes]:
    batch_bytes = len(rows(1_000_000, BATCH_ROWS))
    count = megabytes * 1_000_000 // batch_bytes
    return [rows(1_000_000 + number * BATCH_ROWS, BATCH_ROWS) for number in range(count)]


def drain_apart(home: Home, far_end: FarEnd, recorded: Recorded) -> int:
    """Drain in a fresh process; its peak memory in KiB."""
    environment = clean_environment(home, "none", **far_end.environment())
    ended = run_script(DRAIN, environment, str(recorded.path), deadline_s=110)
    ended.check_unfelt()
    told = json.loads(ended.stdout)
    assert told["outcome"] == "delivered"
    return int(told["peak_kib"])


def put_numbers(far_end: FarEnd) -> list[int]:
    return [int(entry.path.rsplit("/", 1)[1][:8]) for entry in far_end.journal.requests("put", stored=True)]


def test_fault_30_memory_of_a_drain_does_not_grow_with_the_backlog(home: Home, tmp_path: Path) -> None:
    peaks_kib = []
    for megabytes in (9, 27):
        with FarEnd() as far_end:
            recorded = backlog(tmp_path / f"spools-{megabytes}", far_end, large_batches(megabytes))
            peaks_kib.append(drain_apart(home, far_end, recorded))
            numbers = put_numbers(far_end)
            assert numbers == list(range(1, len(numbers) + 1))  # the oldest first, each once
            assert len(numbers) >= megabytes // 9 > 0
            assert far_end.run().finish is not None
    small_kib, large_kib = peaks_kib
    assert large_kib < small_kib + 8_000
    assert large_kib < 120_000, "the promise is 100 MB resident; a little more for other Pythons"


def test_fault_30_thirty_thousand_small_batches_are_delivered_whole(home: Home, far_end: FarEnd) -> None:
    recorded = backlog(home.spool_dir, far_end, [b"%d,%040d\n" % (number, number) for number in range(30_000)])
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
    assert far_end.journal.count("put") == 1  # a segment holds as many batches as fit, not one


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "live"])
def test_fault_30_first_segment_costs_the_same_whatever_waits_behind_it(
    home: Home, tmp_path: Path, has_ended: bool
) -> None:
    """Counted in SQLite's own steps, not seconds: opening, and sealing the first segment."""
    costs = []
    for megabytes in (10, 30):
        with FarEnd() as far_end:
            made = large_batches(megabytes)
            recorded = backlog(tmp_path / f"spools-{megabytes}", far_end, made, has_ended=has_ended)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with closing(Spool(recorded.path)) as spool:
            spool.connection._db.set_progress_handler(count, 10)
            segment = next(iter(spool.seal_pending()))
            spool.connection._db.set_progress_handler(None, 0)
        assert segment.seq == 1
        costs.append(steps)
    small, large = costs
    assert 0 < large <= small * 1.1 + 10


def test_fault_30_slow_link_delivers_in_order_with_interruptions(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=6, rows_each=800)
    far_end.always("put", faults.slow_reading(40_000))
    far_end.nth("put", 3, faults.cut_upload(500))
    far_end.nth("put", 4, faults.reply_lost())
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)
    offered = [int(entry.path.rsplit("/", 1)[1][:8]) for entry in far_end.journal.requests("put")]
    assert offered == sorted(offered)


def test_fault_30_new_rows_queue_behind_the_backlog(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=3, has_ended=False, tracker=system.identify(os.getpid()))
    appended: list[bytes] = []

    def more(_count: int) -> None:
        appended.append(rows(5000 + 10 * len(appended), 2))
        with closing(Spool(recorded.path)) as spool:
            append(spool, appended[-1], is_sealed=False)

    far_end.fail_next("put", faults.answer(503), times=4)
    assert drain(recorded, far_end, Waits(then=more)) is Outcome.UPLOADED
    with closing(Spool(recorded.path)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=STARTED_AT + 60)
    assert drain(recorded, far_end) is Outcome.DELIVERED
    Recorded(recorded.path, Told(HEADER, [*recorded.told.acknowledged, *appended])).judge(far_end)
    assert put_numbers(far_end) == sorted(put_numbers(far_end))
