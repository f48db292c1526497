"""Segments: which batches may become one, their bytes, verified, and fixing them for good in the spool."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from spool.database.connection import Connection
from spool.errors import SpoolDamaged
from spool.model import Segment, SegmentState

MISSING = "the rows are missing: the file was damaged"
_FETCH_BYTES = 1 << 20  # of CSV at a time

# A segment row gets the room of its future proof of storage (URI, ETag, time) when it is sealed, so that marking it sent
# only ever shrinks it: that works in place, without a new page, on a full disk too.
_ROOM_FOR_PROOF = " " * 512

_INSERT = (
    "INSERT OR IGNORE INTO segment (first_batch_id, last_batch_id, header_id, row_count, csv_bytes, sha256, state,"
    " sealed_at, reason, etag, seq) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
)
_IS_NEXT = " WHERE (SELECT coalesce(max(last_batch_id), 0) FROM segment) < ?"


@dataclass(frozen=True)
class Range:
    """Consecutive batches that may become one segment. `damage` says why they cannot be sent, or is None."""

    first_batch_id: int
    last_batch_id: int
    header_id: int
    row_count: int
    csv_bytes: int
    sha256: str
    damage: str | None = None


def seal(db: sqlite3.Connection, candidate: Range, *, now: float) -> int | None:
    """Fix a range behind all segments that there are. Its number, None if another owner was faster."""
    cursor = db.execute(_INSERT + _IS_NEXT, (*_columns(candidate, now, seq=None), candidate.first_batch_id))
    return int(cursor.lastrowid or 0) if cursor.rowcount == 1 else None


def insert(db: sqlite3.Connection, candidate: Range, *, now: float, seq: int | None) -> None:
    """Fix a range between other segments, which it must not overlap."""
    db.execute(_INSERT, _columns(candidate, now, seq=seq))


def _columns(candidate: Range, now: float, *, seq: int | None) -> tuple[object, ...]:
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


def unseal_from(db: Connection, segment: Segment) -> bool:
    """Give up the segments from this one on, whose rows become pending again; their numbers are never used again.

    Only if this one is stored nowhere. What may be stored of later ones is named by no finish, so no row is doubled.
    False, and nothing is changed, if a later one was sent or rejected: its number must stay the higher one.
    """
    with db.transaction() as connection:
        behind = "SELECT count(*) FROM segment WHERE first_batch_id > ? AND state <> ?"
        sealed = SegmentState.SEALED.value
        if connection.execute(behind, (segment.first_batch_id, sealed)).fetchone()[0]:
            return False
        connection.execute("DELETE FROM segment WHERE first_batch_id >= ?", (segment.first_batch_id,))
    return True


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


def _ranges(db: Connection, segment: Segment, max_bytes: int) -> Iterator[Range]:
    first_id, last_id = _clipped(db, segment)
    yield from ranges_between(db, first_id, last_id, max_bytes)


def ranges_between(db: Connection, first_id: int, last_id: int, max_bytes: int) -> Iterator[Range]:
    """All batches of a range, whole: what can be sent, what is damaged, and what is missing up to its end."""
    while first_id <= last_id:
        candidate = range_between(db, first_id, last_id, max_bytes)
        if candidate is None:
            yield Range(first_id, last_id, 0, 0, 0, "", MISSING)
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


def next_range(db: Connection, up_to_batch_id: int, max_bytes: int) -> Range | None:
    """The next pending batches that fit one segment (see `range_between`). None if nothing is pending."""
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    return range_between(db, first_id, up_to_batch_id, max_bytes)


def range_between(db: Connection, first_id: int, last_id: int, max_bytes: int) -> Range | None:
    """The first batches of a range that fit one segment: same header, at most `max_bytes` of CSV (or one larger batch).

    Every batch is verified against its checksum; a damaged one is a range of its own, and so are missing ones (ids are
    given without gaps). None if there is nothing.
    """
    reader = Verifier(db)
    chosen: _Choice | None = None
    expected_id = first_id
    for batch_id, header_id, row_count, sha256, csv in batches(db, first_id, last_id):
        if batch_id != expected_id:
            return chosen.range() if chosen else Range(expected_id, batch_id - 1, header_id, 0, 0, "", MISSING)
        expected_id += 1
        damage = reader.damage(header_id, sha256, csv, row_count)
        if damage and chosen is None:
            counted = max(0, row_count) if isinstance(row_count, int) else 0
            return Range(batch_id, batch_id, header_id, counted, _size(csv), "", damage)
        chosen = chosen or _Choice(batch_id, header_id, reader.header(header_id))
        if damage or not chosen.has_room_for(header_id, csv, max_bytes):
            break
        chosen.add(batch_id, row_count, csv)
    return None if chosen is None else chosen.range()


class _Choice:
    """The batches chosen so far: counted and hashed, not held, so that memory does not depend on the segment's size."""

    def __init__(self, first_batch_id: int, header_id: int, header: bytes) -> None:
        self._first_batch_id = self._last_batch_id = first_batch_id
        self._header_id = header_id
        self._header_bytes = len(header)
        self._has_any = False
        self._row_count = 0
        self._rows_bytes = 0
        self._digest = hashlib.sha256(header)

    def has_room_for(self, header_id: int, csv: bytes, max_bytes: int) -> bool:
        return not self._has_any or (header_id == self._header_id and self._rows_bytes + len(csv) <= max_bytes)

    def add(self, batch_id: int, row_count: int, csv: bytes) -> None:
        self._has_any = True
        self._last_batch_id = batch_id
        self._row_count += row_count
        self._rows_bytes += len(csv)
        self._digest.update(csv)

    def range(self) -> Range:
        return Range(
            first_batch_id=self._first_batch_id,
            last_batch_id=self._last_batch_id,
            header_id=self._header_id,
            row_count=self._row_count,
            csv_bytes=self._header_bytes + self._rows_bytes,
            sha256=self._digest.hexdigest(),
            damage=None if self._rows_bytes else MISSING,  # only a batch whose rows made way (`space`)
        )


def batches(db: Connection, first_id: int, last_id: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Batches in order, fetched some at a time, so that no read transaction lasts and memory stays small."""
    while first_id <= last_id:
        rows = db.query_until(
            "SELECT batch_id, header_id, row_count, sha256, csv FROM batch"
            " WHERE batch_id BETWEEN ? AND ? ORDER BY batch_id",
            (first_id, last_id),
            _enough(_FETCH_BYTES),
        )
        if not rows:
            return
        _require_order(rows, first_id, db)
        yield from rows
        first_id = rows[-1][0] + 1


def _require_order(rows: Sequence[tuple[Any, ...]], first_id: int, db: Connection) -> None:
    """SQLite takes the order of rows from their pages, which may name one another in circles."""
    ids = [first_id - 1, *(row[0] for row in rows)]
    if any(later <= earlier for earlier, later in pairwise(ids)):
        raise SpoolDamaged(f"the batches of {db.path} are not in order", path=db.path)


def _enough(max_bytes: int) -> Callable[[tuple[Any, ...]], bool]:
    """True from the row on at which the CSV in the last column adds up to `max_bytes`."""
    total_bytes = 0

    def is_enough(row: tuple[Any, ...]) -> bool:
        nonlocal total_bytes
        total_bytes += _size(row[-1])
        return total_bytes >= max_bytes

    return is_enough


def _size(csv: object) -> int:
    """Bytes of what should be CSV; in a damaged file it may be anything."""
    return len(csv) if isinstance(csv, (bytes, str)) else 0


def damaged_batches(db: Connection, up_to_batch_id: int) -> Iterator[Range]:
    """Batches that are missing or not what was appended, each run of missing ones as one range. Reads every batch."""
    reader = Verifier(db)
    expected_id = 1
    for batch_id, header_id, row_count, sha256, csv in batches(db, 1, up_to_batch_id):
        if batch_id != expected_id:
            yield Range(expected_id, batch_id - 1, header_id, 0, 0, "", MISSING)
        expected_id = batch_id + 1
        if damage := reader.damage(header_id, sha256, csv, row_count):
            yield Range(batch_id, batch_id, header_id, 0, _size(csv), "", damage)


class Verifier:
    """Checks batches against their checksums; remembers headers."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._headers: dict[int, bytes] = {}
        self._primed: dict[int, Any] = {}  # digests that have hashed the header already

    def header(self, header_id: int) -> bytes:
        if header_id not in self._headers:
            rows = self._db.query("SELECT csv FROM header WHERE header_id = ?", (header_id,))
            self._headers[header_id] = rows[0][0] if rows else b""
        return self._headers[header_id]

    def damage(self, header_id: int, sha256: bytes, csv: bytes, row_count: int) -> str | None:
        """Why this batch cannot be trusted, or None."""
        header = self.header(header_id)
        if not isinstance(csv, bytes) or not isinstance(header, bytes):
            return "the rows on disk are not bytes"
        digest = self._digest_of(header_id, header).copy()
        digest.update(csv)
        if digest.digest() != sha256:
            return "checksum mismatch: the rows on disk are not those that were appended"
        return None if csv.count(b"\n") == row_count else "the number of rows on disk is not the appended one"

    def _digest_of(self, header_id: int, header: bytes) -> Any:
        if header_id not in self._primed:
            self._primed[header_id] = hashlib.sha256(header)
        return self._primed[header_id]

    def sound_rows(self, found: Sequence[tuple[Any, ...]]) -> bytes | None:
        """The rows of these batches (as `batches` gives them) if they have one header and each is as it was appended.

        A batch may be a single row: what is done for each is as little as proves it.
        """
        _, header_ids, row_counts, sums, texts = zip(*found, strict=True)
        header = self.header(header_ids[0])
        if len(set(header_ids)) > 1 or {bytes} != {type(header), *map(type, texts)}:
            return None
        primed = self._digest_of(header_ids[0], header).copy
        for expected, csv in zip(sums, texts, strict=True):
            digest = primed()
            digest.update(csv)
            if digest.digest() != expected:
                return None
        rows = b"".join(texts)
        return rows if set(map(type, row_counts)) == {int} and rows.count(b"\n") == sum(row_counts) else None


def segment_csv(db: Connection, of: Segment) -> Iterator[bytes]:
    """The segment's CSV in pieces of about a megabyte, header line first, cut at the same places every time.

    Raises SpoolDamaged after the last piece unless they are exactly what was sealed.
    """
    (header,) = db.query("SELECT csv FROM header WHERE header_id = ?", (of.header_id,)) or [(b"",)]
    first_piece = header[0] if isinstance(header[0], bytes) else b""
    digest = hashlib.sha256(first_piece)
    yield first_piece
    first_id = of.first_batch_id
    while rows := db.query_until(
        "SELECT batch_id, csv FROM batch WHERE batch_id BETWEEN ? AND ? ORDER BY batch_id",
        (first_id, of.last_batch_id),
        _enough(_FETCH_BYTES),
    ):
        _require_order(rows, first_id, db)
        first_id = rows[-1][0] + 1
        piece = b"".join([csv for _, csv in rows if isinstance(csv, bytes)])
        digest.update(piece)
        yield piece
    if digest.hexdigest() != of.sha256:
        raise SpoolDamaged(f"segment {of.seq} of {db.path} is not what was sealed", path=db.path)


def object_key(segment: Segment) -> str:
    """The key below the run's prefix: sorts by sequence, and names the content, so the same key is the same rows."""
    return f"{segment.seq:08d}-{segment.sha256[:12]}.csv.gz"
