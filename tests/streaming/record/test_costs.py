"""What delivery costs, as far as it can be said without a clock: requests, and memory however long the backlog."""

import gc
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, SegmentState, Spool, queries
from spool.spool import SEGMENT_MAX_BYTES
from streaming.upload.delivery import deliver
from tests.support import plays
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.recorded import HEADER, rows

CYCLES = 5
BATCH_BYTES = 200_000
SPARE_BYTES = 1 << 20


def fill(spool_dir: Path, batches: Iterable[bytes]) -> Spool:
    spool = Spool.create(spool_dir, plays.new_run())
    spool.append([Batch(HEADER, batch) for batch in batches])
    return spool


def thousands(count: int) -> Iterable[bytes]:
    """Batches of many rows."""
    line = b"1700000000.5," + b"7" * 86 + b"\n"
    return (line * (BATCH_BYTES // len(line)) for _ in range(count))


def test_each_cycle_is_one_put(tmp_path: Path) -> None:
    far_end = MemoryFarEnd()
    with closing(fill(tmp_path / "spools", [])) as spool:
        for cycle in range(CYCLES):
            spool.append([Batch(HEADER, rows(cycle * 60 + row, 1)) for row in range(60)])
            deliver(spool, far_end, far_end)
            assert far_end.put_count == cycle + 1


def test_cycle_without_new_rows_puts_nothing(tmp_path: Path) -> None:
    far_end = MemoryFarEnd()
    with closing(fill(tmp_path / "spools", [rows(0, 3)])) as spool:
        for _ in range(CYCLES):
            deliver(spool, far_end, far_end)
    assert far_end.put_count == 1


def test_backlog_goes_in_as_few_puts_as_fit(tmp_path: Path) -> None:
    far_end = MemoryFarEnd()
    batch_count = 3 * (SEGMENT_MAX_BYTES // BATCH_BYTES)
    with closing(fill(tmp_path / "spools", thousands(batch_count))) as spool:
        deliver(spool, far_end, far_end)
    assert far_end.put_count == 3


@pytest.mark.parametrize("batches", [thousands, lambda count: (rows(at, 1) for at in range(20 * count))])
def test_memory_of_a_drain_does_not_grow_with_the_backlog(tmp_path: Path, batches: object) -> None:
    short, long = (_peak_of_drain(tmp_path / str(count), batches(count)) for count in (25, 100))  # type: ignore[operator]
    assert long < short + SPARE_BYTES


def _peak_of_drain(spool_dir: Path, batches: Iterable[bytes]) -> int:
    """The most that Python held beyond what it held before. The store keeps no body, or its own memory would be seen."""
    far_end = MemoryFarEnd()
    real = far_end.put

    def put(run_id: str, uri: str, body: bytes) -> object:
        return real(run_id, uri, body[:10])

    far_end.put = put  # type: ignore[method-assign, assignment]
    with closing(fill(spool_dir, batches)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=1_700_000_000.0)
        gc.collect()
        tracemalloc.start()
        try:
            _drain_in_segments_of(spool, far_end, max_bytes=1 << 20)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def _drain_in_segments_of(spool: Spool, far_end: MemoryFarEnd, *, max_bytes: int) -> None:
    """Deliver with small segments, so that even the short backlog has several."""
    for _ in spool.seal_pending(max_bytes):
        pass
    deliver(spool, far_end, far_end)
    assert not spool.segments(SegmentState.SEALED)


def test_a_segments_bytes_come_in_bounded_pieces_and_are_verified(tmp_path: Path) -> None:
    with closing(fill(tmp_path / "spools", thousands(20))) as spool:
        (segment,) = spool.seal_pending()
        pieces = list(spool.csv_pieces(segment))
        assert b"".join(pieces) == spool.csv(segment)
        assert len(pieces) > 3
        assert max(map(len, pieces)) < (1 << 20) + BATCH_BYTES
        assert queries.backlog(spool.connection).row_count == segment.row_count
