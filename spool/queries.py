"""What anybody may ask a spool: the run record, counts, the backlog, rows for export."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from spool.database import decode
from spool.database.connection import Connection
from spool.errors import SpoolDamaged
from spool.model import Backlog, Counts, Run, RunState, Segment, SegmentState
from spool.segments import MISSING, Verifier, batches

_BULK_BYTES = 16 << 20  # twice what is sealed as one segment
_BULK_BATCHES = 1024
_SMALL_BYTES = 1 << 10  # of a batch that is read with a thousand others: a megabyte, whatever the run
_SELECT_SEGMENT = f"SELECT {', '.join(decode.SEGMENT_COLUMNS)} FROM segment"
_PENDING = "batch WHERE batch_id > (SELECT coalesce(max(last_batch_id), 0) FROM segment)"
_NEWEST = "(SELECT max(batch_id) FROM batch)"
_SENT = "segment WHERE state = 'sent'"
_SEALED, _REJECTED = (f"segment WHERE state <> 'sent' AND state = '{state}'" for state in ("sealed", "rejected"))


def run(db: Connection) -> Run:
    """The run record."""
    row = db.query(f"SELECT {decode.RUN_COLUMNS} FROM run")
    if not row:
        raise SpoolDamaged(f"the spool {db.path} has no run record", path=db.path)
    return decode.run(row[0], db.path)


def segments(db: Connection, state: SegmentState) -> list[Segment]:
    """All segments in one state, in order. Raises SpoolDamaged if one is in no state that there is."""
    # The partial index knows what is not sent; the store has the last word on sent ones only at the run's end.
    comparison = "=" if state is SegmentState.SENT else "<>"
    rows = db.query(f"{_SELECT_SEGMENT} WHERE state {comparison} 'sent' ORDER BY first_batch_id")
    found = [decode.segment(row, db.path) for row in rows]
    return [each for each in found if each.state is state]


def segment(db: Connection, seq: int) -> Segment:
    """The segment with this number."""
    return decode.segment(db.query(f"{_SELECT_SEGMENT} WHERE seq = ?", (seq,))[0], db.path)


def sent_uris(db: Connection) -> list[str]:
    """`s3://` URIs of all sent segments, in the order of their rows. Raises SpoolDamaged if one is in no state."""
    rows = db.query("SELECT state, uri FROM segment ORDER BY first_batch_id")
    with decode.nonsense_is_damage(db.path, "record of a segment"):
        sent = [uri for state, uri in rows if SegmentState(state) is SegmentState.SENT]
    return [decode.text(uri, "URI of a segment", db.path) for uri in sent]


def last_sent(db: Connection) -> Segment | None:
    """The newest segment that S3 holds."""
    ((seq,),) = db.query(f"SELECT max(seq) FROM {_SENT}")
    return None if seq is None else segment(db, seq)


def last_header(db: Connection) -> bytes | None:
    """The header line of the newest batch, None without any."""
    rows = db.query(
        f"SELECT csv FROM header WHERE header_id = (SELECT header_id FROM batch WHERE batch_id = {_NEWEST})"
    )
    return decode.content(rows[0][0], "newest header line", db.path) if rows else None


def csv_offset(db: Connection) -> int:
    """How many bytes of the run's CSV file are already in the spool."""
    rows = db.query(f"SELECT csv_offset FROM batch WHERE batch_id = {_NEWEST}")
    return decode.count(rows[0][0] or 0, "place in the CSV file", db.path) if rows else 0


def pending_csv(db: Connection) -> bytes | None:
    """All pending rows as one CSV with one header line, b"" without rows, None if they have several headers.

    Raises SpoolDamaged if a batch is missing or fails its checksum.
    """
    last_id = last_batch_id(db)
    first_id = int(db.query("SELECT coalesce(max(last_batch_id), 0) + 1 FROM segment")[0][0])
    reader = Verifier(db)
    parts: list[bytes] = []
    header_ids: set[int] = set()
    for expected_id, (batch_id, header_id, row_count, sha256, csv) in enumerate(
        batches(db, first_id, last_id), first_id
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
    oldest = [
        *db.query(f"SELECT min(appended_at) FROM {_PENDING}"),
        *db.query(
            "SELECT min(b.appended_at) FROM segment s JOIN batch b ON b.batch_id = s.first_batch_id"
            " WHERE s.state <> 'sent' AND s.state = 'sealed'"
        ),
    ]
    return Backlog(
        row_count=_sum(db, "row_count", _PENDING) + _sum(db, "row_count", _SEALED),
        csv_bytes=_sum(db, "length(csv)", _PENDING) + _sum(db, "csv_bytes", _SEALED),
        oldest_at=min(
            (decode.time(at, "time of an append", db.path) for (at,) in oldest if at is not None), default=None
        ),
    )


def counts(db: Connection) -> Counts:
    """Rows of the run by what became of them. A run that finished inline has all its pending rows sent."""
    (state,) = db.query("SELECT state FROM run")[0]
    sent, sealed, rejected, pending = (_sum(db, "row_count", table) for table in (_SENT, _SEALED, _REJECTED, _PENDING))
    is_inline = state == RunState.FINISHED.value
    return Counts(
        recorded=sent + sealed + rejected + pending,
        sent=sent + (pending if is_inline else 0),
        waiting=sealed + (0 if is_inline else pending),
        rejected=rejected,
        objects=int(db.query(f"SELECT count(*) FROM {_SENT}")[0][0]),
    )


def _sum(db: Connection, column: str, table: str) -> int:
    """Of a column of counts. Raises SpoolDamaged if it holds something else."""
    ((total,),) = db.query(f"SELECT coalesce(sum({column}), 0) FROM {table}")
    return decode.count(total, f"sum of {column}", db.path)


def headers(db: Connection) -> list[bytes]:
    """All header lines of the run, in the order in which they appeared."""
    rows = db.query("SELECT csv FROM header ORDER BY header_id")
    return [decode.content(csv, "header line", db.path) for (csv,) in rows]


def kept_row_count(db: Connection, up_to: int) -> int:
    """Rows that are still in the spool up to a batch, damaged ones included."""
    return _sum(db, "row_count", f"batch WHERE batch_id <= {up_to:d}")


def sent_amount(db: Connection) -> tuple[int, int]:
    """Rows and CSV bytes of the segments that S3 holds."""
    return _sum(db, "row_count", _SENT), _sum(db, "csv_bytes", _SENT)


def last_append_at(db: Connection) -> float | None:
    """When the last batch was appended, by the tracker's clock."""
    rows = db.query(f"SELECT appended_at FROM batch WHERE batch_id = {_NEWEST}")
    return decode.time(rows[0][0], "time of the newest append", db.path) if rows else None


def newest_rows(db: Connection) -> bytes:
    """The rows of the newest batch; b"" if they made way, are damaged, or newer ones were lost."""
    rows = db.query(
        "SELECT header_id, sha256, csv, row_count FROM batch WHERE batch_id = (SELECT max(batch_id) FROM batch)"
        " AND batch_id = (SELECT seq FROM sqlite_sequence WHERE name = 'batch')"
    )
    if not rows or Verifier(db).damage(*rows[0]) is not None:
        return b""
    return bytes(rows[0][2])


def last_batch_id(db: Connection) -> int:
    """The newest batch's; 0 without any."""
    return int(db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0][0])


def exported(db: Connection, *, after: int = 0, up_to: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Every batch still in the spool, in order, as (header line, rows). Damaged batches are left out."""
    reader = Verifier(db)
    for _, header_id, row_count, sha256, csv in batches(db, after + 1, last_batch_id(db) if up_to is None else up_to):
        if csv and reader.damage(header_id, sha256, csv, row_count) is None:
            yield reader.header(header_id), csv


def exported_in_bulk(db: Connection, *, up_to: int) -> Iterator[tuple[bytes, bytes]]:
    """The same, many batches at a time where they are as they were appended: a batch may be one row, and a run many."""
    done = 0
    for first, last, header_id, row_count, csv_bytes, sha256 in db.query(
        "SELECT first_batch_id, last_batch_id, header_id, row_count, csv_bytes, sha256 FROM segment"
        " WHERE last_batch_id <= ? ORDER BY first_batch_id",
        (up_to,),
    ):
        if not isinstance(csv_bytes, int) or csv_bytes > _BULK_BYTES or first != done + 1:
            break
        header = Verifier(db).header(header_id)
        cells = db.query("SELECT csv FROM batch WHERE batch_id BETWEEN ? AND ? ORDER BY batch_id", (first, last))
        rows = b"".join([csv for (csv,) in cells if isinstance(csv, bytes)])
        is_whole = hashlib.sha256(header + rows).hexdigest() == sha256 and rows.count(b"\n") == row_count
        if is_whole:
            yield header, rows
        else:
            yield from exported(db, after=done, up_to=last)
        done = last
    yield from _unsealed_in_bulk(db, after=done, up_to=up_to)


def _unsealed_in_bulk(db: Connection, *, after: int, up_to: int) -> Iterator[tuple[bytes, bytes]]:
    """A thousand batches at a time; those among which one is large, or anything odd, one by one."""
    reader = Verifier(db)
    while after < up_to:
        last = min(after + _BULK_BATCHES, up_to)
        found = db.query(
            "SELECT batch_id, header_id, row_count, sha256, csv FROM batch"
            " WHERE batch_id > ? AND batch_id <= ? AND length(csv) < ? ORDER BY batch_id",
            (after, last, _SMALL_BYTES),
        )
        if [batch_id for batch_id, *_ in found] == list(range(after + 1, last + 1)) and (
            rows := reader.sound_rows(found)
        ):
            yield reader.header(found[0][1]), rows
        else:
            ((last,),) = db.query(
                "SELECT max(batch_id) FROM"
                " (SELECT batch_id FROM batch WHERE batch_id > ? AND batch_id <= ? ORDER BY batch_id LIMIT ?)",
                (after, up_to, _BULK_BATCHES),
            )
            if last is None:
                return
            yield from exported(db, after=after, up_to=last)
        after = last
