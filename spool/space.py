"""Room on disk: a short run takes little, and on a full one what S3 holds makes way, and what was kept for this."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from spool.database.connection import SMALL_PAGE_BYTES, Connection
from spool.errors import SpoolError, SpoolFull
from spool.model import Batch, RunState, SegmentState

SHRINK_MAX_BYTES = 256 << 10
# An ended run is still to be registered, sealed, marked and finished, on a full disk too. Each of these touches fewer than
# fifteen small pages, which go into the journal. They need a few new ones, and as many as the run's record has, which is
# written anew before the old one is freed: it holds them as blanks behind the page that is known, until the service's answer
# to the finish comes or the disk is full.
SMALL_JOURNAL_BYTES = 8 << 10
KEPT_ROOM = (
    f"printf('%-*s', {3 << 10} + length(metadata) + length(tracker) + coalesce(length(host_info), 0)"
    " + coalesce(length(cloud_info), 0), coalesce(finish_answer, '{}'))"
)
RELEASE_BATCHES = 32  # in one transaction: they must fit into the journal's room (`schema.JOURNAL_BYTES`)
RELEASE_MAX_BATCHES = 2048  # by one call, so that an append on a full disk does not wait long
# An UPDATE would need new pages before it frees the old ones. The temporary table is in memory.
_WITHOUT_KEPT_ROOM = (
    "CREATE TEMP TABLE record AS SELECT * FROM main.run",
    "UPDATE temp.record SET finish_answer = NULL",
    "DELETE FROM main.run",
    "INSERT INTO main.run SELECT * FROM temp.record",
    "DROP TABLE temp.record",
)


def shrink_if_small(db: Connection, *, journal_bytes: int, step: Callable[[str], None]) -> None:
    """Let a short run that gets no more rows take little room: it may stay for days. Best effort; a killed one leaves the
    file as it was or as it shall be. The journal keeps its room until the file needs less of it."""
    with suppress(SpoolError, OSError):
        if db.path.stat().st_size <= SHRINK_MAX_BYTES:
            if db.page_bytes() != SMALL_PAGE_BYTES:
                db.shrink()
                step("shrunk")
            db.cut_journal(journal_bytes)


def give_up_kept_room(db: Connection, step: Callable[[str], None]) -> bool:
    """Let the next transactions have the pages that an ended run kept for them. False if there are none (any more)."""
    with db.transaction() as connection:
        kept = "SELECT count(*) FROM run WHERE state = ? AND finish_answer IS NOT NULL"
        if not connection.execute(kept, (RunState.ENDED.value,)).fetchone()[0]:
            return False
        for statement in _WITHOUT_KEPT_ROOM:
            connection.execute(statement)
        step("room:given")
    return True


def release_sent(db: Connection, *, step: Callable[[str], None]) -> int:
    """Delete some batches that S3 holds, the oldest first, a few per transaction. Returns how many went.

    The newest batch stays, without its rows: it tells how far the CSV file was taken over.
    """
    released = 0
    while released < RELEASE_MAX_BATCHES:
        try:
            count = _release(db, RELEASE_BATCHES, step)
        except SpoolFull:
            count = _release_one(db, step)
        released += count
        if count == 0:
            break
    return released + (_empty_newest(db, step) if released == 0 else 0)


def _release_one(db: Connection, step: Callable[[str], None]) -> int:
    try:
        return _release(db, 1, step)
    except SpoolFull:
        return 0


def _release(db: Connection, batch_count: int, step: Callable[[str], None]) -> int:
    with db.transaction() as connection:
        cursor = connection.execute(
            "DELETE FROM batch WHERE batch_id IN (SELECT b.batch_id FROM segment s CROSS JOIN batch b"
            " ON b.batch_id BETWEEN s.first_batch_id AND s.last_batch_id WHERE s.state = ?"
            " AND b.batch_id < (SELECT max(batch_id) FROM batch) ORDER BY s.first_batch_id, b.batch_id LIMIT ?)",
            (SegmentState.SENT.value, batch_count),
        )
        step("release:deleted")
    step("released")
    return cursor.rowcount


def _empty_newest(db: Connection, step: Callable[[str], None]) -> int:
    """Take the rows of the newest batch, if S3 holds them."""
    newest = db.query(
        "SELECT b.batch_id, h.csv FROM batch b JOIN header h ON h.header_id = b.header_id JOIN segment s"
        " ON b.batch_id BETWEEN s.first_batch_id AND s.last_batch_id"
        " WHERE b.batch_id = (SELECT max(batch_id) FROM batch) AND b.row_count > 0"
        " AND s.last_batch_id = (SELECT max(last_batch_id) FROM segment) AND s.state = ?",
        (SegmentState.SENT.value,),
    )
    for batch_id, header in newest:
        with db.transaction() as connection:
            connection.execute(
                "UPDATE batch SET row_count = 0, sha256 = ?, csv = ? WHERE batch_id = ?",
                (Batch(header, b"").sha256, b"", batch_id),
            )
            step("release:emptied")
        step("released")
    return len(newest)
