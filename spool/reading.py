"""Reading a spool: the run record, ranges to seal, a segment's bytes, rows for export, counts.

No query here walks the whole run: ranges and counts start where the last segment ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

from spool.connection import Connection
from spool.errors import SpoolDamaged
from spool.model import Backlog, Counts, Registration, Run, RunState, Segment, SegmentState, Tracker

_FETCH_BATCHES = 2000
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
    fields = row[0]
    return Run(
        spool_id=fields[0],
        state=RunState(fields[1]),
        tracker=Tracker(**json.loads(fields[2])),
        started_at=fields[3],
        metadata=json.loads(fields[4]),
        host_info=_json_or_none(fields[5]),
        cloud_info=_json_or_none(fields[6]),
        csv_path=fields[7],
        api_url=fields[8],
        s3_endpoint_url=fields[9],
        upload_interval_s=fields[10],
        has_token=bool(fields[11]),
        registration=Registration(fields[12], fields[13]) if fields[12] else None,
        ended_at=fields[14],
        exit_code=fields[15],
        run_status=fields[16],
        finish_answer=_json_or_none(fields[17]),
        finished_at=fields[18],
        parked=fields[19],
        problem=fields[20],
        problem_cause=fields[21],
        problem_at=fields[22],
    )


def _json_or_none(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def segments(db: Connection, state: SegmentState) -> list[Segment]:
    """All segments in one state, in order."""
    rows = db.query(f"{_SELECT_SEGMENT} WHERE state = ? ORDER BY seq", (state.value,))
    return [_segment(row) for row in rows]


def segment(db: Connection, seq: int) -> Segment:
    """The segment with this number."""
    return _segment(db.query(f"{_SELECT_SEGMENT} WHERE seq = ?", (seq,))[0])


def _segment(row: tuple[Any, ...]) -> Segment:
    fields = dict(zip(_SEGMENT_COLUMNS, row, strict=True))
    return Segment(**{**fields, "state": SegmentState(fields["state"])})


def next_range(db: Connection, up_to_batch_id: int, max_bytes: int) -> Range | None:
    """The next pending batches that fit one segment: same header, at most `max_bytes` of CSV (or one larger batch).

    Every batch is verified against its checksum; a damaged one is a range of its own. None if nothing is pending.
    """
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    reader = _Verifier(db)
    chosen: list[tuple[int, int, int, bytes]] = []
    total_bytes = 0
    for batch_id, header_id, row_count, sha256, csv in _batches(db, first_id, up_to_batch_id):
        damage = reader.damage(header_id, sha256, csv, row_count)
        if damage and not chosen:
            return Range(batch_id, batch_id, header_id, row_count, len(csv), "", damage)
        fits = not chosen or (header_id == chosen[0][1] and total_bytes + len(csv) <= max_bytes)
        if damage or not fits:
            break
        chosen.append((batch_id, header_id, row_count, csv))
        total_bytes += len(csv)
    if not chosen:
        return None
    header = reader.header(chosen[0][1])
    digest = hashlib.sha256(header)
    for *_, csv in chosen:
        digest.update(csv)
    return Range(
        first_batch_id=chosen[0][0],
        last_batch_id=chosen[-1][0],
        header_id=chosen[0][1],
        row_count=sum(row_count for _, _, row_count, _ in chosen),
        csv_bytes=len(header) + total_bytes,
        sha256=digest.hexdigest(),
    )


def _batches(db: Connection, first_id: int, last_id: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Batches in order, fetched some at a time, so that no read transaction lasts."""
    while first_id <= last_id:
        rows = db.query(
            "SELECT batch_id, header_id, row_count, sha256, csv FROM batch"
            " WHERE batch_id BETWEEN ? AND ? ORDER BY batch_id LIMIT ?",
            (first_id, last_id, _FETCH_BATCHES),
        )
        if not rows:
            return
        yield from rows
        first_id = rows[-1][0] + 1


class _Verifier:
    """Checks batches against their checksums; remembers headers."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._headers: dict[int, bytes] = {}

    def header(self, header_id: int) -> bytes:
        if header_id not in self._headers:
            rows = self._db.query("SELECT csv FROM header WHERE header_id = ?", (header_id,))
            self._headers[header_id] = rows[0][0] if rows else b""
        return self._headers[header_id]

    def damage(self, header_id: int, sha256: bytes, csv: bytes, row_count: int) -> str | None:
        """Why this batch cannot be trusted, or None."""
        digest = hashlib.sha256(self.header(header_id))
        digest.update(csv)
        if digest.digest() != sha256:
            return "checksum mismatch: the rows on disk are not those that were appended"
        return None if csv.count(b"\n") == row_count else "the number of rows on disk is not the appended one"


def segment_csv(db: Connection, of: Segment) -> bytes:
    """The segment's CSV, header line first. Raises SpoolDamaged unless it is exactly what was sealed."""
    (header,) = db.query("SELECT csv FROM header WHERE header_id = ?", (of.header_id,)) or [(b"",)]
    rows = db.query(
        "SELECT csv FROM batch WHERE batch_id BETWEEN ? AND ? ORDER BY batch_id",
        (of.first_batch_id, of.last_batch_id),
    )
    csv = b"".join([header[0], *(row[0] for row in rows)])
    if hashlib.sha256(csv).hexdigest() != of.sha256:
        raise SpoolDamaged(f"segment {of.seq} of {db.path} is not what was sealed", path=db.path)
    return csv


def pending_csv(db: Connection) -> bytes | None:
    """All pending rows as one CSV with one header line, b"" without rows, None if they have several headers.

    Raises SpoolDamaged if a batch fails its checksum.
    """
    last_id = int(db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0][0])
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    reader = _Verifier(db)
    parts: list[bytes] = []
    header_ids: set[int] = set()
    for _, header_id, row_count, sha256, csv in _batches(db, first_id, last_id):
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


def last_append_at(db: Connection) -> float | None:
    """When the last batch was appended, by the tracker's clock."""
    rows = db.query("SELECT appended_at FROM batch WHERE batch_id = (SELECT max(batch_id) FROM batch)")
    return rows[0][0] if rows else None


def exported(db: Connection) -> Iterator[tuple[bytes, bytes]]:
    """Every batch still in the spool, in order, as (header line, rows). Damaged batches are left out."""
    (last_id,) = db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0]
    reader = _Verifier(db)
    for _, header_id, row_count, sha256, csv in _batches(db, 1, last_id):
        if reader.damage(header_id, sha256, csv, row_count) is None:
            yield reader.header(header_id), csv
