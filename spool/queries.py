"""Reading a spool: the run record, ranges to seal, a segment's bytes, rows for export, counts.

No query here walks the whole run: ranges and counts start where the last segment ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

from spool.database.connection import Connection
from spool.errors import SpoolDamaged, SpoolRefused
from spool.model import Backlog, Counts, Registration, Run, RunState, Segment, SegmentState, Tracker

MISSING = "the rows are missing: the file was damaged"
_FETCH_BYTES = 1 << 20  # of CSV at a time
_SEGMENT_COLUMNS = tuple(field.name for field in fields_of(Segment))
_SELECT_SEGMENT = f"SELECT {', '.join(_SEGMENT_COLUMNS)} FROM segment"
_PENDING = "batch_id > (SELECT coalesce(max(last_batch_id), 0) FROM segment)"


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


def run(db: Connection) -> Run:
    """The run record."""
    row = db.query(
        "SELECT spool_id, state, tracker, started_at, metadata, host_info, cloud_info, csv_path, api_url,"
        " s3_endpoint_url, upload_interval_s, token_fingerprint IS NOT NULL, run_id, upload_uri_prefix, ended_at,"
        " exit_code, run_status, finish_answer, finished_at, parked, problem, problem_cause, problem_at FROM run"
    )
    if not row:
        raise SpoolDamaged(f"the spool {db.path} has no run record", path=db.path)
    with _nonsense_refused(db, "run record"):
        return _run(row[0])


def _run(fields: tuple[Any, ...]) -> Run:
    return Run(
        spool_id=_text(fields[0]),
        state=RunState(fields[1]),
        tracker=_tracker(_object(fields[2])),
        started_at=_time(fields[3]),
        metadata=_object(fields[4]),
        host_info=_object_or_none(fields[5]),
        cloud_info=_object_or_none(fields[6]),
        csv_path=_path_or_none(fields[7]),
        api_url=_text(fields[8]),
        s3_endpoint_url=_text_or_none(fields[9]),
        upload_interval_s=_time(fields[10]),
        has_token=bool(fields[11]),
        registration=Registration(_text(fields[12]), _text(fields[13])) if fields[12] else None,
        ended_at=_time_or_none(fields[14]),
        exit_code=None if fields[15] is None else _count(fields[15], least=-(1 << 31)),
        run_status=_text_or_none(fields[16]),
        finish_answer=_object_or_none(fields[17]),
        finished_at=_time_or_none(fields[18]),
        parked=_text_or_none(fields[19]),
        problem=_text_or_none(fields[20]),
        problem_cause=_text_or_none(fields[21]),
        problem_at=_time_or_none(fields[22]),
    )


# SQLite keeps any value in any column, and a spool may come from anywhere: what is read is checked before it is used.


@contextmanager
def _nonsense_refused(db: Connection, what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SpoolRefused(
            f"the {what} of {db.path} makes no sense ({error})",
            path=db.path,
            hint="it was not written by tracker-stream",
        ) from error


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r:.60} is not a text")


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _path_or_none(value: object) -> str | None:
    return os.fsdecode(value) if isinstance(value, bytes) else _text_or_none(value)


def _time(value: object) -> float:
    """Seconds; up to the year 9999, which is what an ISO-8601 time can say."""
    if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value < 253_402_300_800:
        return float(value)
    raise TypeError(f"{value!r:.60} is not a time")


def _time_or_none(value: object) -> float | None:
    return None if value is None else _time(value)


def _count(value: object, *, least: int = 0) -> int:
    if isinstance(value, int) and value >= least:
        return value
    raise TypeError(f"{value!r:.60} is not a count")


def _object(value: object) -> dict[str, Any]:
    found = json.loads(_text(value))
    if isinstance(found, dict):
        return found
    raise TypeError(f"{value!r:.60} is not a JSON object")


def _object_or_none(value: object) -> dict[str, Any] | None:
    return None if value is None else _object(value)


def _tracker(fields: dict[str, Any]) -> Tracker:
    known = {name: _text(fields.get(name)) for name in ("started_at", "boot_id", "pid_namespace", "host")}
    return Tracker(pid=_count(fields.get("pid")), **known)


def segments(db: Connection, state: SegmentState) -> list[Segment]:
    """All segments in one state, in order."""
    # The partial index knows what is not sent; the store has the last word on sent ones only at the run's end.
    unsent = "state <> 'sent' AND " if state is not SegmentState.SENT else ""
    rows = db.query(f"{_SELECT_SEGMENT} WHERE {unsent}state = ? ORDER BY first_batch_id", (state.value,))
    return [_segment(db, row) for row in rows]


def segment(db: Connection, seq: int) -> Segment:
    """The segment with this number."""
    return _segment(db, db.query(f"{_SELECT_SEGMENT} WHERE seq = ?", (seq,))[0])


def _segment(db: Connection, row: tuple[Any, ...]) -> Segment:
    fields = dict(zip(_SEGMENT_COLUMNS, row, strict=True))
    with _nonsense_refused(db, f"segment {fields['seq']!r:.20}"):
        for name in ("seq", "first_batch_id", "last_batch_id", "header_id", "row_count", "csv_bytes", "refusal_count"):
            _count(fields[name])
        _text(fields["sha256"])
        _text_or_none(fields["uri"])
        return Segment(**{**fields, "state": SegmentState(fields["state"])})


def next_range(db: Connection, up_to_batch_id: int, max_bytes: int) -> Range | None:
    """The next pending batches that fit one segment (see `range_between`). None if nothing is pending."""
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    return range_between(db, first_id, up_to_batch_id, max_bytes)


def range_between(db: Connection, first_id: int, last_id: int, max_bytes: int) -> Range | None:
    """The first batches of a range that fit one segment: same header, at most `max_bytes` of CSV (or one larger batch).

    Every batch is verified against its checksum; a damaged one is a range of its own, and so are missing ones (ids are
    given without gaps). None if there is nothing.
    """
    reader = _Verifier(db)
    chosen: _Choice | None = None
    expected_id = first_id
    for batch_id, header_id, row_count, sha256, csv in _batches(db, first_id, last_id):
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
            damage=None if self._rows_bytes else MISSING,  # only a batch whose rows made way (`room`)
        )


def _batches(db: Connection, first_id: int, last_id: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
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
        yield from rows
        first_id = rows[-1][0] + 1


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
    reader = _Verifier(db)
    expected_id = 1
    for batch_id, header_id, row_count, sha256, csv in _batches(db, 1, up_to_batch_id):
        if batch_id != expected_id:
            yield Range(expected_id, batch_id - 1, header_id, 0, 0, "", MISSING)
        expected_id = batch_id + 1
        if damage := reader.damage(header_id, sha256, csv, row_count):
            yield Range(batch_id, batch_id, header_id, 0, _size(csv), "", damage)


class _Verifier:
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
        primed = self._primed.get(header_id)
        if primed is None:
            primed = self._primed[header_id] = hashlib.sha256(header)
        digest = primed.copy()
        digest.update(csv)
        if digest.digest() != sha256:
            return "checksum mismatch: the rows on disk are not those that were appended"
        return None if csv.count(b"\n") == row_count else "the number of rows on disk is not the appended one"


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
        first_id = rows[-1][0] + 1
        piece = b"".join([csv for _, csv in rows if isinstance(csv, bytes)])
        digest.update(piece)
        yield piece
    if digest.hexdigest() != of.sha256:
        raise SpoolDamaged(f"segment {of.seq} of {db.path} is not what was sealed", path=db.path)


def pending_csv(db: Connection) -> bytes | None:
    """All pending rows as one CSV with one header line, b"" without rows, None if they have several headers.

    Raises SpoolDamaged if a batch is missing or fails its checksum.
    """
    last_id = int(db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0][0])
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    reader = _Verifier(db)
    parts: list[bytes] = []
    header_ids: set[int] = set()
    for expected_id, (batch_id, header_id, row_count, sha256, csv) in enumerate(
        _batches(db, first_id, last_id), first_id
    ):
        if batch_id != expected_id:
            raise SpoolDamaged(MISSING, path=db.path)
        if damage := reader.damage(header_id, sha256, csv, row_count):
            raise SpoolDamaged(damage, path=db.path)
        header_ids.add(header_id)
        parts.append(csv)
    if len(header_ids) > 1:
        return None
    return b"".join([reader.header(header_id) for header_id in header_ids] + parts)


def backlog(db: Connection) -> Backlog:
    """What is not sent. Sizes of pending batches are summed over the pending ones only."""
    pending = db.query(
        f"SELECT coalesce(sum(row_count), 0), coalesce(sum(length(csv)), 0), min(appended_at) FROM batch WHERE {_PENDING}"
    )[0]
    sealed = db.query(
        "SELECT coalesce(sum(s.row_count), 0), coalesce(sum(s.csv_bytes), 0), min(b.appended_at) FROM segment s"
        " LEFT JOIN batch b ON b.batch_id = s.first_batch_id WHERE s.state <> 'sent' AND s.state = 'sealed'"
    )[0]
    rejected = db.query("SELECT coalesce(sum(row_count), 0) FROM segment WHERE state <> 'sent' AND state = 'rejected'")[
        0
    ]
    oldest = [at for at in (pending[2], sealed[2]) if at is not None]
    return Backlog(pending[0] + sealed[0], pending[1] + sealed[1], min(oldest, default=None), rejected[0])


def counts(db: Connection) -> Counts:
    """Rows of the run by what became of them. A run that finished inline has all its pending rows sent."""
    (state,) = db.query("SELECT state FROM run")[0]
    sums = dict(db.query("SELECT state, sum(row_count) FROM segment GROUP BY state"))
    objects = int(db.query("SELECT count(*) FROM segment WHERE state = 'sent'")[0][0])
    pending = int(db.query(f"SELECT coalesce(sum(row_count), 0) FROM batch WHERE {_PENDING}")[0][0])
    sent, sealed, rejected = (sums.get(name, 0) for name in ("sent", "sealed", "rejected"))
    is_inline = state == RunState.FINISHED.value
    return Counts(
        recorded=sent + sealed + rejected + pending,
        sent=sent + (pending if is_inline else 0),
        waiting=sealed + (0 if is_inline else pending),
        rejected=rejected,
        objects=objects,
    )


def only_in_s3(db: Connection) -> list[Segment]:
    """Sent segments whose rows made room for others on a full disk: they are in S3, and no longer here."""
    rows = db.query(
        f"{_SELECT_SEGMENT} s WHERE state = 'sent'"
        " AND NOT EXISTS (SELECT 1 FROM batch WHERE batch_id = s.first_batch_id AND row_count > 0) ORDER BY first_batch_id"
    )
    return [_segment(db, row) for row in rows]


def headers(db: Connection) -> list[bytes]:
    """All header lines of the run, in the order in which they appeared."""
    return [bytes(row[0]) for row in db.query("SELECT csv FROM header ORDER BY header_id")]


def kept_row_count(db: Connection) -> int:
    """Rows that are still in the spool, damaged ones included."""
    return int(db.query("SELECT coalesce(sum(row_count), 0) FROM batch")[0][0])


def sent_amount(db: Connection) -> tuple[int, int]:
    """Rows and CSV bytes of the segments that S3 holds."""
    row = db.query("SELECT coalesce(sum(row_count), 0), coalesce(sum(csv_bytes), 0) FROM segment WHERE state = 'sent'")[
        0
    ]
    return int(row[0]), int(row[1])


def last_append_at(db: Connection) -> float | None:
    """When the last batch was appended, by the tracker's clock."""
    rows = db.query("SELECT appended_at FROM batch WHERE batch_id = (SELECT max(batch_id) FROM batch)")
    return rows[0][0] if rows else None


def newest_rows(db: Connection) -> bytes:
    """The rows of the newest batch; b"" if they made way, are damaged, or newer ones were lost."""
    rows = db.query(
        "SELECT header_id, sha256, csv, row_count FROM batch WHERE batch_id = (SELECT max(batch_id) FROM batch)"
        " AND batch_id = (SELECT seq FROM sqlite_sequence WHERE name = 'batch')"
    )
    if not rows or _Verifier(db).damage(*rows[0]) is not None:
        return b""
    return bytes(rows[0][2])


def exported(db: Connection) -> Iterator[tuple[bytes, bytes]]:
    """Every batch still in the spool, in order, as (header line, rows). Damaged batches are left out.

    `only_in_s3` tells what was here and is not any more.
    """
    (last_id,) = db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0]
    reader = _Verifier(db)
    for _, header_id, row_count, sha256, csv in _batches(db, 1, last_id):
        if csv and reader.damage(header_id, sha256, csv, row_count) is None:
            yield reader.header(header_id), csv
