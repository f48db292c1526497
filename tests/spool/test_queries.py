"""What is read of a spool: counts, backlog, ranges, exports, and values that make no sense."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, SegmentState, Spool, queries, segments
from spool.errors import SpoolDamaged
from tests.support import plays, spools
from tests.support.spools import HEADER, rows

OTHER = b"timestamp,x,y\n"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool.create(tmp_path / "spools", plays.new_run(), clock=lambda: 1e9)) as made:
        yield made


def append(spool: Spool, *entries: bytes, header: bytes = HEADER) -> None:
    spool.append([Batch(header, entry) for entry in entries])


def test_counts_tell_what_became_of_each_row(spool: Spool) -> None:
    append(spool, *(rows(number) for number in range(10)))
    first, second, third, *_ = spool.seal_pending(max_bytes=1)
    spool.mark_sent(first, uri="s3://bucket/1", etag="e")
    spool.reject(second, "refused")
    append(spool, rows(10, 5))
    counts = queries.counts(spool.connection)
    assert (counts.recorded, counts.sent, counts.waiting, counts.rejected, counts.objects) == (15, 1, 13, 1, 1)
    backlog = queries.backlog(spool.connection)
    assert (backlog.row_count, backlog.oldest_at) == (13, 1e9)
    assert third.state is SegmentState.SEALED


def test_rows_that_went_inline_with_the_finish_are_sent(spool: Spool) -> None:
    append(spool, rows(0, 4))
    spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    assert queries.counts(spool.connection).waiting == 4
    spool.finish({})
    counts = queries.counts(spool.connection)
    assert (counts.recorded, counts.sent, counts.waiting, counts.objects) == (4, 4, 0, 0)


def test_empty_spool_has_no_backlog(spool: Spool) -> None:
    backlog = queries.backlog(spool.connection)
    assert (backlog.row_count, backlog.csv_bytes, backlog.oldest_at) == (0, 0, None)
    assert queries.last_append_at(spool.connection) is None
    assert queries.pending_csv(spool.connection) == b""


def test_pending_csv_is_one_csv_or_none_if_headers_differ(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    assert queries.pending_csv(spool.connection) == HEADER + rows(0, 2)
    append(spool, rows(2), header=OTHER)
    assert queries.pending_csv(spool.connection) is None


@pytest.mark.parametrize(
    "harm", ["DELETE FROM batch WHERE batch_id = 2", "UPDATE batch SET csv = x'00' WHERE batch_id = 2"]
)
def test_pending_csv_with_damaged_or_missing_rows_is_not_given_out(spool: Spool, harm: str) -> None:
    append(spool, rows(0), rows(1), rows(2))
    with spools.raw(spool.path) as connection:
        connection.execute(harm)
    with pytest.raises(SpoolDamaged):
        queries.pending_csv(spool.connection)


def test_ranges_end_where_rows_are_missing_or_damaged(spool: Spool) -> None:
    append(spool, *(rows(number) for number in range(9)))
    with spools.raw(spool.path) as connection:
        connection.execute("DELETE FROM batch WHERE batch_id IN (3, 4)")
        connection.execute("UPDATE batch SET sha256 = zeroblob(32) WHERE batch_id = 7")
    sealed = list(spool.seal_pending())
    assert [(each.first_batch_id, each.last_batch_id) for each in sealed] == [(1, 2), (5, 6), (8, 9)]
    aside = spool.segments(SegmentState.REJECTED)
    assert [(each.first_batch_id, each.last_batch_id, each.row_count) for each in aside] == [(3, 4, 0), (7, 7, 1)]
    assert aside[0].reason == segments.MISSING


def test_rows_under_the_wrong_header_are_damaged(spool: Spool) -> None:
    append(spool, rows(0))
    append(spool, rows(1), header=OTHER)
    with spools.raw(spool.path) as connection:
        connection.execute("UPDATE batch SET header_id = 2 WHERE batch_id = 1")
    assert [header for header, _ in queries.exported(spool.connection)] == [OTHER]


def test_row_count_that_is_not_that_of_the_rows_is_damage(spool: Spool) -> None:
    append(spool, rows(0, 2))
    with spools.raw(spool.path) as connection:
        connection.execute("UPDATE batch SET row_count = 3")
    assert list(queries.exported(spool.connection)) == []


def test_changed_bytes_of_a_sealed_segment_are_not_given_out(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    (segment,) = spool.seal_pending()
    with spools.raw(spool.path) as connection:
        connection.execute("DELETE FROM batch WHERE batch_id = 2")
    with pytest.raises(SpoolDamaged, match="is not what was sealed"):
        spool.csv(segment)


def test_export_gives_rows_in_order_with_their_headers(spool: Spool) -> None:
    append(spool, rows(0))
    append(spool, rows(1), header=OTHER)
    append(spool, rows(2))
    assert list(queries.exported(spool.connection)) == [(HEADER, rows(0)), (OTHER, rows(1)), (HEADER, rows(2))]


def test_many_batches_are_read_in_pieces_and_none_is_left_out(spool: Spool) -> None:
    append(spool, *(rows(number) for number in range(5000)))
    assert spools.exported(spool) == rows(0, 5000)
    (segment,) = spool.seal_pending()
    assert segment.row_count == 5000
    assert spool.csv(segment) == HEADER + rows(0, 5000)


def test_spool_without_a_run_is_damaged_and_so_is_one_with_nonsense(spool: Spool) -> None:
    with spools.raw(spool.path) as connection:
        connection.execute("UPDATE run SET started_at = 'noon'")
    with pytest.raises(SpoolDamaged, match="'noon' is not a time") as damaged:
        spool.run()
    assert str(spool.path) in str(damaged.value)
    with spools.raw(spool.path) as connection:
        connection.execute("DELETE FROM run")
    with pytest.raises(SpoolDamaged, match="has no run record"):
        spool.run()


@pytest.mark.parametrize("damaged", [None, 2, 5])
def test_rows_in_bulk_are_those_read_batch_by_batch(tmp_path: Path, damaged: int | None) -> None:
    path = spools.filled(tmp_path, [spools.rows(number * 10, 2) for number in range(8)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        first, *_ = spool.seal_pending(60)
        spool.mark_sent(first, uri="s3://b/1", etag="e")
        if damaged:
            with spool.connection.transaction() as db:
                db.execute("UPDATE batch SET csv = replace(csv, ',', ';') WHERE batch_id = ?", (damaged,))
        for up_to in range(9):
            one_by_one = list(queries.exported(spool.connection, up_to=up_to))
            in_bulk = list(queries.exported_in_bulk(spool.connection, up_to=up_to))
            assert b"".join(rows for _, rows in in_bulk) == b"".join(rows for _, rows in one_by_one)
            assert {header for header, _ in in_bulk} == {header for header, _ in one_by_one}
        if damaged is None:
            assert len(list(queries.exported_in_bulk(spool.connection, up_to=8))) < 8


@pytest.mark.parametrize(
    "damage", ["", "csv = CAST(replace(csv, ',', ';') AS BLOB)", "csv = x''", "row_count = 2", "csv = 'text'"]
)
def test_batches_of_a_row_that_nobody_sealed_are_read_many_at_a_time(tmp_path: Path, damage: str) -> None:
    path = spools.filled(tmp_path, [spools.rows(number) for number in range(5000)])
    with closing(Spool(path)) as spool:
        spool.append([Batch(OTHER, spools.rows(number)) for number in range(5000, 5010)])
        with spool.connection.transaction() as db:
            db.execute("DELETE FROM batch WHERE batch_id = 5005")
            if damage:
                db.execute(f"UPDATE batch SET {damage} WHERE batch_id IN (1025, 5002)")
        for up_to in (5010, 4600, 1):
            one_by_one = list(queries.exported(spool.connection, up_to=up_to))
            in_bulk = list(queries.exported_in_bulk(spool.connection, up_to=up_to))
            for header in (HEADER, OTHER):
                expected = b"".join(rows for its, rows in one_by_one if its == header)
                assert b"".join(rows for its, rows in in_bulk if its == header) == expected
            assert len(in_bulk) < 3000
