"""Is a spool whole, and what to do if it is not: the audit, and the way on for whoever owns a damaged one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from spool import directory, queries
from spool.database.connection import Connection, file_identity
from spool.errors import SpoolDamaged
from spool.model import SegmentState
from spool.recovery.recover import Salvaged, salvage
from spool.spool import Spool

SALVAGES_MAX = 3  # a disk that damages faster than we can save is beyond us
Result = TypeVar("Result")


def surviving_damage(path: Path, work: Callable[[Spool], Result], *, report: Callable[[Salvaged], None]) -> Result:
    """`work` on the spool at `path`; if that is found damaged, salvage it and work on what is readable, from the top.

    For the owner of the delivery. `report` gets what was salvaged. Raises SpoolDamaged if it is found damaged again and
    again, and every other error of `work`.
    """
    directory.require_trustworthy(path)
    for _ in range(SALVAGES_MAX):
        identity = file_identity(path)
        try:
            with closing(Spool(path)) as spool:
                return work(spool)
        except SpoolDamaged:
            salvaged = salvage(path, identity)
            if salvaged is not None:
                report(salvaged)
    with closing(Spool(path)) as spool:
        return work(spool)


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
    for candidate in queries.damaged_batches(db, last_id):
        if candidate.damage != queries.MISSING or candidate.last_batch_id > sent_up_to:
            yield f"batches {candidate.first_batch_id} to {candidate.last_batch_id}: {candidate.damage}"


def _segments(db: Connection) -> Iterator[str]:
    """Ranges follow each other without gap or overlap; sealed ones hold what was sealed."""
    expected = 1
    for seq, first, last in db.query("SELECT seq, first_batch_id, last_batch_id FROM segment ORDER BY first_batch_id"):
        if first != expected or last < first:
            yield f"segment {seq}: covers batches {first} to {last}, {expected} should be its first"
        expected = last + 1
    for segment in queries.segments(db, SegmentState.SEALED):
        try:
            queries.segment_csv(db, segment)
        except SpoolDamaged as damage:
            yield damage.message
