"""Recovery: what is readable of a damaged spool goes into a new file, which takes its place; the old one is kept aside.

Works on bytes, page by page, for SQLite refuses whole tables over one bad page. Nothing wrong is taken over: every batch is
verified by its own sha256 over header and rows. The spool's id and registration stay, so the run goes on as the same run.

Segments that are readable stay as they are, sent ones with their URI. Where segments are lost between known ones, their
batches are sealed anew under the lost numbers; where the last or all are lost, their batches are pending again. Neither
doubles a row: what was stored under the old keys is not named by the finish, which names only what this file knows.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from spool import segments, trust
from spool.database import schema
from spool.database.connection import Connection, file_identity
from spool.errors import SpoolDamaged
from spool.model import Batch, NewRun, SegmentState
from spool.recovery import guest, scan
from spool.recovery import replace as replacement
from spool.recovery.scan import Findings, FoundSegment
from spool.spool import Spool

_COMMIT_BYTES = 8 << 20
_SEGMENT_MAX_BYTES = 8 << 20
_JOURNAL_MAX_BYTES = 256 << 20
_SHOWN_GAPS = 5
_RECOVERIES_MAX = 3  # a disk that damages faster than we can save is beyond us
Result = TypeVar("Result")


@dataclass(frozen=True)
class Recovered:
    """What became of a damaged spool. `missing`: ranges of batch ids (from, to) whose rows are lost."""

    kept_aside: Path
    batch_count: int
    row_count: int
    missing: tuple[tuple[int, int], ...]
    has_lost_segments: bool
    has_lost_run: bool
    lost_facts: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: what was saved, what is missing, where the damaged file is."""
        parts = [f"{self.row_count} row(s) in {self.batch_count} append(s) were saved"]
        if self.missing:
            shown = ", ".join(
                f"{first}" if first == last else f"{first}-{last}" for first, last in self.missing[:_SHOWN_GAPS]
            )
            more = ", ..." if len(self.missing) > _SHOWN_GAPS else ""
            count = sum(last - first + 1 for first, last in self.missing)
            parts.append(f"{count} append(s) are lost (number {shown}{more} of the run)")
        if self.has_lost_run:
            parts.append("what was known of the run itself is lost: it is registered as a new one")
        if self.lost_facts:
            parts.append(f"of the run itself is lost: {', '.join(self.lost_facts)}")
        return f"{'; '.join(parts)}; the damaged file is kept as {self.kept_aside}"


def surviving_damage(path: Path, work: Callable[[Spool], Result], *, report: Callable[[Recovered], None]) -> Result:
    """`work` on the spool at `path`; if that is found damaged, recover it and work on what is readable, from the top.

    For the owner of the delivery. `report` gets what was recovered. Raises SpoolDamaged if it is found damaged again and
    again, and every other error of `work`.
    """
    trust.require_trustworthy(path)
    for _ in range(_RECOVERIES_MAX):
        identity = file_identity(path)
        try:
            return _work_on(path, work, report)
        except SpoolDamaged:
            recovered = recover_file(path, identity)
            if recovered is not None:
                report(recovered)
    return _work_on(path, work, report)


def _work_on(path: Path, work: Callable[[Spool], Result], report: Callable[[Recovered], None]) -> Result:
    with closing(Spool(path)) as spool:
        if guest.is_guest(spool):
            taken_in = guest.take_in(spool, _write)
            if taken_in.missing:
                report(taken_in)
        return work(spool)


def recover(spool: Spool) -> Recovered | None:
    """After SpoolDamaged: keep the file aside and go on with what is readable of it. None if somebody else did."""
    identity = file_identity(spool.path)
    with spool.connection.released():
        recovered = recover_file(spool.path, identity)
    spool.connection.generation += 1
    return recovered


def recover_file(path: Path, identity: tuple[int, int]) -> Recovered | None:
    """Replace the damaged file `identity` at `path` by what is readable of it. None if somebody else has done so.

    The caller has it open nowhere. Killed at any line: the old file, or the whole new one, is there. Raises SpoolDamaged
    if there is nothing readable, SpoolFull and SpoolUnavailable; then nothing has changed.
    """
    with replacement.exclusively(path, identity) as descriptor:
        if descriptor is None:
            return None
        found = scan.search(descriptor, _journal(path))
        if found.run is None and next(found.batches(), None) is None:
            raise SpoolDamaged(f"nothing of a run can be read in {path}", path=path, hint="it is left as it is")
        with replacement.new_file(path) as new:
            with closing(Connection(new)) as db:
                report = _write(db, found)
            kept_aside = replacement.keep_aside(path, descriptor)
            replacement.put_in_place(new, path)
    with suppress(OSError):  # a convenience on a full disk, which this one perhaps is
        schema.reserve_journal(path)
    return replace(report, kept_aside=kept_aside)


def _journal(path: Path) -> bytes:
    """Its beginning: one of ours holds the pages of one transaction."""
    try:
        with open(path.with_name(path.name + "-journal"), "rb") as journal:
            return journal.read(_JOURNAL_MAX_BYTES)
    except OSError:
        return b""


def _write(db: Connection, found: Findings) -> Recovered:
    has_lost_run = _write_run(db, found)
    batch_count, row_count = _write_batches(db, found)
    _write_known_segments(db, found)
    has_lost_segments = _fill_gaps(db, found)
    _mark_place_in_csv(db, found)
    _write_sequence(db, found)
    return Recovered(
        Path(), batch_count, row_count, tuple(_missing(db)), has_lost_segments, has_lost_run, found.lost_facts
    )


def _write_run(db: Connection, found: Findings) -> bool:
    """The tables, and the run record; if that is lost, one that says as little as it must. True if it was lost."""
    with db.transaction() as connection:
        schema.create_tables(connection)
        if found.run is not None:
            places = ", ".join("?" * scan.RUN_COLUMNS)
            connection.execute(f"INSERT INTO run VALUES ({places})", (1, *found.run[1:]))  # noqa: S608 - question marks
        else:
            # Nobody knows whether its tracker lives: uploaded at once, ended after a day's silence or by the user.
            schema.insert_run(connection, NewRun(tracker=scan.NOBODY, started_at=found.began_at or time.time()))
        for header_id, csv in found.headers_by_id():
            connection.execute("INSERT OR IGNORE INTO header (header_id, csv) VALUES (?, ?)", (header_id, csv))
    return found.run is None


def _write_batches(db: Connection, found: Findings) -> tuple[int, int]:
    """Every batch that is what it was when it was appended. Returns how many batches and rows."""
    batch_count = row_count = 0
    for piece in _pieces(found.batches()):
        with db.transaction() as connection:
            connection.executemany(
                "INSERT INTO batch (batch_id, header_id, row_count, csv_offset, appended_at, sha256, csv)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                piece,
            )
        batch_count += len(piece)
        row_count += sum(batch[2] for batch in piece)
    return batch_count, row_count


def _pieces(batches: Iterator[scan.FoundBatch]) -> Iterator[list[scan.FoundBatch]]:
    piece: list[scan.FoundBatch] = []
    size = 0
    for batch in batches:
        piece.append(batch)
        size += len(batch[6]) + 200
        if size >= _COMMIT_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _write_known_segments(db: Connection, found: Findings) -> None:
    places = ", ".join("?" * scan.SEGMENT_COLUMNS)
    with db.transaction() as connection:
        connection.executemany(
            f"INSERT INTO segment VALUES ({places})",  # noqa: S608 - question marks
            [segment.row for segment in found.segments],
        )


def _fill_gaps(db: Connection, found: Findings) -> bool:
    """Seal anew what lies between known segments. There are never more ranges than numbers were lost: both are cut alike."""
    start = FoundSegment.nowhere()
    has_gap = False
    for before, behind in pairwise([start, *found.segments]):
        if behind.first_batch_id == before.last_batch_id + 1:
            continue
        has_gap = True
        lost_seqs = iter(range(before.seq + 1, behind.seq))
        ranges = list(
            segments.ranges_between(db, before.last_batch_id + 1, behind.first_batch_id - 1, _SEGMENT_MAX_BYTES)
        )
        with db.transaction() as connection:
            for candidate in ranges:
                segments.insert(connection, candidate, now=time.time(), seq=next(lost_seqs, None))
    return has_gap


def _mark_place_in_csv(db: Connection, found: Findings) -> None:
    """An empty batch that tells how far the CSV file was taken over, if the newest batches are lost, yet were sent.

    Without it those rows would be taken from the file, and sent, again.
    """
    sent = [segment for segment in found.segments if segment.is_sent]
    newest = db.query("SELECT batch_id, header_id, csv_offset FROM batch ORDER BY batch_id DESC LIMIT 1")
    newest_id, header_id, offset = newest[0] if newest else (0, None, 0)
    csv_path = None if found.run is None else found.run[10]
    if not sent or sent[-1].last_batch_id <= newest_id or csv_path is None:
        return
    beyond = [segment for segment in sent if segment.last_batch_id > newest_id]
    (here,) = db.query(
        "SELECT coalesce(sum(row_count), 0) FROM batch WHERE batch_id >= ?", (beyond[0].first_batch_id,)
    )[0]
    row_count = sum(segment.row_count for segment in beyond) - here
    header = dict(found.headers_by_id()).get(header_id or beyond[-1].row[3], b"")
    mark = Batch(header, b"")
    with db.transaction() as connection:
        connection.execute(
            "INSERT INTO batch (batch_id, header_id, row_count, csv_offset, appended_at, sha256, csv)"
            " VALUES (?, ?, 0, ?, ?, ?, ?)",
            (
                beyond[-1].last_batch_id,
                header_id or beyond[-1].row[3],
                _offset_behind(Path(os.fsdecode(csv_path)), offset or 0, row_count, header),
                time.time(),
                mark.sha256,
                mark.rows,
            ),
        )


def _offset_behind(csv_path: Path, offset: int, row_count: int, header: bytes) -> int:
    """Where the next `row_count` rows of a CSV file end; `offset` if the file cannot be read."""
    try:
        if not stat.S_ISREG(csv_path.stat().st_mode):  # a damaged spool may come from anywhere, and name a pipe
            return offset
        with open(csv_path, "rb") as file:
            file.seek(offset)
            while row_count > 0 and (line := file.readline()):
                row_count -= line != header
                offset += len(line)
    except OSError:
        return offset
    return offset


def _write_sequence(db: Connection, found: Findings) -> None:
    """No number is ever given twice, lost ones neither."""
    with db.transaction() as connection:
        for table, column in (("batch", "batch_id"), ("segment", "seq"), ("header", "header_id")):
            (highest,) = connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()  # noqa: S608
            last = max(highest, found.sequence.get(table, 0))
            connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last))


def _missing(db: Connection) -> Iterator[tuple[int, int]]:
    """Gaps in the batch ids, but those of sent segments, whose rows are safe in S3."""
    sent = db.query(
        "SELECT first_batch_id, last_batch_id FROM segment WHERE state = ? ORDER BY first_batch_id",
        (SegmentState.SENT.value,),
    )
    (last_id,) = db.query("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'batch'")[0]
    expected = 1
    present = (row[0] for row in db.query("SELECT batch_id FROM batch ORDER BY batch_id"))
    for batch_id in (*present, last_id + 1):
        if batch_id > expected:
            yield from _outside(expected, batch_id - 1, sent)
        expected = batch_id + 1


def _outside(first: int, last: int, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of a range lies in none of the (ordered, disjoint) ranges."""
    for begin, end in ranges:
        if begin > last:
            break
        if end >= first:
            if begin > first:
                yield first, begin - 1
            first = max(first, end + 1)
    if first <= last:
        yield first, last
