"""Fixing ranges of batches as segments: when rows are pending, when sealed ones turn out damaged, after a salvage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from spool import queries
from spool.database.connection import Connection
from spool.model import Segment, SegmentState

# A segment row gets the room of its future proof of storage (URI, ETag, time) when it is sealed, so that marking it sent
# only ever shrinks it: that works in place, without a new page, on a full disk too.
_ROOM_FOR_PROOF = " " * 512

_INSERT = (
    "INSERT OR IGNORE INTO segment (first_batch_id, last_batch_id, header_id, row_count, csv_bytes, sha256, state,"
    " sealed_at, reason, etag, seq) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
)
_IS_NEXT = " WHERE (SELECT coalesce(max(last_batch_id), 0) FROM segment) < ?"


def seal(db: sqlite3.Connection, candidate: queries.Range, *, now: float) -> int | None:
    """Fix a range behind all segments that there are. Its number, None if another owner was faster."""
    cursor = db.execute(_INSERT + _IS_NEXT, (*_columns(candidate, now, seq=None), candidate.first_batch_id))
    return int(cursor.lastrowid or 0) if cursor.rowcount == 1 else None


def insert(db: sqlite3.Connection, candidate: queries.Range, *, now: float, seq: int | None) -> None:
    """Fix a range between other segments, which it must not overlap."""
    db.execute(_INSERT, _columns(candidate, now, seq=seq))


def _columns(candidate: queries.Range, now: float, *, seq: int | None) -> tuple[object, ...]:
    return (
        candidate.first_batch_id,
        candidate.last_batch_id,
        candidate.header_id,
        candidate.row_count,
        candidate.csv_bytes,
        candidate.sha256,
        (SegmentState.REJECTED if candidate.damage else SegmentState.SEALED).value,
        now,
        candidate.damage,
        None if candidate.damage else _ROOM_FOR_PROOF,
        seq,
    )


def recut(db: Connection, segment: Segment, *, now: float, max_bytes: int) -> list[int]:
    """Replace a sealed segment that is not what was sealed by the ranges that its readable rows make up.

    The first range keeps its number, the others get new ones; damaged and missing batches become rejected segments.
    An object that was stored under the old checksum is not named by the finish, so nothing is doubled.
    Returns the numbers of those that can be sent.
    """
    ranges = list(_ranges(db, segment, max_bytes))
    with db.transaction() as connection:
        connection.execute("DELETE FROM segment WHERE seq = ?", (segment.seq,))
        for number, candidate in enumerate(ranges):
            insert(connection, candidate, now=now, seq=segment.seq if number == 0 else None)
    firsts = [candidate.first_batch_id for candidate in ranges if not candidate.damage]
    return [int(db.query("SELECT seq FROM segment WHERE first_batch_id = ?", (first,))[0][0]) for first in firsts]


def _ranges(db: Connection, segment: Segment, max_bytes: int) -> Iterator[queries.Range]:
    first_id, last_id = _clipped(db, segment)
    yield from ranges_between(db, first_id, last_id, max_bytes)


def ranges_between(db: Connection, first_id: int, last_id: int, max_bytes: int) -> Iterator[queries.Range]:
    """All batches of a range, whole: what can be sent, what is damaged, and what is missing up to its end."""
    while first_id <= last_id:
        candidate = queries.range_between(db, first_id, last_id, max_bytes)
        if candidate is None:
            yield queries.Range(first_id, last_id, 0, 0, 0, "", queries.MISSING)
            return
        yield candidate
        first_id = candidate.last_batch_id + 1


def _clipped(db: Connection, segment: Segment) -> tuple[int, int]:
    """The segment's range, without what belongs to its neighbours: a damaged number must not double their rows."""
    before = db.query(
        "SELECT last_batch_id FROM segment WHERE first_batch_id < ? ORDER BY first_batch_id DESC LIMIT 1",
        (segment.first_batch_id,),
    )
    behind = db.query(
        "SELECT first_batch_id FROM segment WHERE first_batch_id > ? ORDER BY first_batch_id LIMIT 1",
        (segment.first_batch_id,),
    )
    newest = db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0][0]
    first_id = max(segment.first_batch_id, before[0][0] + 1 if before else 1)
    last_id = min(segment.last_batch_id, behind[0][0] - 1 if behind else max(newest, first_id))
    return first_id, last_id
