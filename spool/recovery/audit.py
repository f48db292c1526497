"""Is a spool whole? Every byte is read, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from spool import queries, segments
from spool.database.connection import Connection
from spool.errors import SpoolDamaged
from spool.model import Segment, SegmentState
from spool.spool import Spool


def audit(path: Path) -> list[str]:
    """Everything that is wrong with a spool, as sentences; none if it is whole. Reads every byte; changes nothing."""
    try:
        with closing(Spool(path)) as spool:
            db = spool.connection
            return [*_structure(db), *_batches(db), *_segments(db)]
    except SpoolDamaged as damage:
        return [damage.message]


def _structure(db: Connection) -> Iterator[str]:
    for (finding,) in db.query("PRAGMA integrity_check"):
        if finding != "ok":
            yield f"the file's structure: {finding}"
    queries.run(db)


def _batches(db: Connection) -> Iterator[str]:
    (last_id,) = db.query("SELECT coalesce(max(batch_id), 0) FROM batch")[0]
    sent_up_to = db.query("SELECT coalesce(max(last_batch_id), 0) FROM segment WHERE state = 'sent'")[0][0]
    for candidate in segments.damaged_batches(db, last_id):
        if candidate.damage != segments.MISSING or candidate.last_batch_id > sent_up_to:
            yield f"batches {candidate.first_batch_id} to {candidate.last_batch_id}: {candidate.damage}"


def _segments(db: Connection) -> Iterator[str]:
    """Ranges follow each other without gap or overlap; what is yet to be sent is what was sealed, byte by byte."""
    found = [segment for state in SegmentState for segment in queries.segments(db, state)]
    expected = 1
    for segment in sorted(found, key=lambda each: each.first_batch_id):
        first, last = segment.first_batch_id, segment.last_batch_id
        if first != expected or last < first:
            yield f"segment {segment.seq}: covers batches {first} to {last}, {expected} should be its first"
        expected = last + 1
        if segment.state is SegmentState.SEALED and not _is_as_sealed(db, segment):
            yield f"segment {segment.seq}: its rows are not those that were sealed"


def _is_as_sealed(db: Connection, segment: Segment) -> bool:
    try:
        for _ in segments.segment_csv(db, segment):
            pass
    except SpoolDamaged:
        return False
    return True
