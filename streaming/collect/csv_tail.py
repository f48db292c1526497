"""Moving a growing CSV file into the spool: whole lines, from the recorded offset, each batch with its new offset."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spool import Batch, Spool, queries
from spool.errors import CsvTaken, SpoolError, SpoolFull
from streaming.collect.csv_lines import LineSplitter

READ_BYTES = 1 << 20
READ_LEAST_BYTES = 4 << 10
LINE_MAX_BYTES = 64 << 20  # a longer one is no row: what has no newline is no CSV
HELD_LOOKS = 2  # at a file that is shorter than before, until it is taken for a new one
UPDATE_SHARE = 0.05  # csv_update_fn may take this share of the time at most, between upload cycles

_UNKNOWN = -1

log = logging.getLogger(__name__)


class CsvFeeder:
    """Takes over what a CSV file holds beyond the spool's offset. One user at a time.

    The offset is in the spool, written with the rows it stands for: a feeder that dies and its successor neither lose
    nor repeat a line.

    A file that is not the one read before is taken from its beginning: what is in front of the offset is not what was
    taken (a new feeder compares with the newest rows in the spool, if they are still there), or the file is shorter.
    One that is shorter and shows no other difference may be in the middle of being written anew with the same rows
    (`open(path, "w")`, `to_csv`): it gets time until the look after HELD_LOOKS more. Limits: whoever takes longer, or
    is met by a feeder that decides at once (the last look, and a dead tracker's successor), sends the rows again; a
    file that differs from the former one only in front of its last MARK_BYTES, beyond its first, goes on as the same;
    lines that a file got after the last look at it are gone when it is replaced; and a line of more than LINE_MAX_BYTES
    is left out, and told.
    """

    def __init__(self, spool: Spool, csv_path: Path) -> None:
        self._spool = spool
        self._path = csv_path
        self._lines = LineSplitter()
        self._read_bytes = READ_BYTES
        self._held_looks = 0  # at a file that is shorter than before
        self._searched_to = 0  # for the end of the line at the offset
        self._has_long_line = False
        self._find_place()
        self._is_warned = False

    def _find_place(self) -> None:
        """Where to go on, as the spool knows it: at the beginning, and after the spool was replaced by a recovered one."""
        self._generation = self._spool.generation
        self._offset = self._recorded = self._spool.csv_offset()
        self._header = self._spool.last_header() if self._offset else None  # in force at the offset
        self._mark = None if self._offset else CsvMark()  # None: not seen by this feeder

    def take(self, *, is_final: bool = False) -> int:
        """Append all whole lines that are there. Returns the number of rows.

        `is_final`: the writer has closed the file properly, so an unterminated last line is a row too. Raises
        SpoolError if the spool cannot take them; the offset stays, and the next call tries again.
        """
        row_count = 0
        if self._generation != self._spool.generation:
            self._find_place()
        try:
            with open(self._path, "rb") as file:
                if self._may_go_on(file, is_final):
                    while (piece := self._next(file, is_final)) is not None:
                        row_count += self._append_or_halve(*piece)
            self._is_warned = False
        except OSError as error:
            self._warn_once(error)
        return row_count

    def _append_or_halve(self, batches: list[Batch], taken: bytes) -> int:
        """On a disk that is almost full smaller pieces may find room where a large one does not."""
        try:
            row_count = self._append(batches, taken)
        except SpoolFull:
            if self._read_bytes <= READ_LEAST_BYTES or self._generation != self._spool.generation:
                raise
            self._read_bytes //= 2
            return 0
        self._read_bytes = min(READ_BYTES, self._read_bytes * 2)
        return row_count

    def _append(self, batches: list[Batch], taken: bytes) -> int:
        """The offset in the spool is where the last row ends: a header line behind it is read again by a successor,
        who could not know it from the spool."""
        self._spool.step("feed:read")
        try:
            if batches:
                recorded = self._offset + min(self._lines.rows_end, len(taken))
                self._spool.append(batches, csv_offset=recorded, csv_offset_before=self._recorded)
                self._recorded = recorded
            self._offset += len(taken)
            self._header = self._lines.header
            self._mark = (self._mark or CsvMark()).beyond(taken)
        except CsvTaken:  # by who took the tracker for dead: the next look asks the spool how far
            self._generation = _UNKNOWN
            raise
        except SpoolError:
            raise
        except BaseException:  # Ctrl-C: the rows may be in or not; the next look asks the spool
            self._generation = _UNKNOWN
            raise
        return sum(batch.row_count for batch in batches)

    def _next(self, file: BinaryIO, is_final: bool) -> tuple[list[Batch], bytes] | None:
        """The next piece of whole lines, longer than asked for only if one line is. None at the end."""
        self._lines.header = self._header  # what a failed append may have read ahead does not count
        file.seek(self._offset)
        piece = file.read(self._read_bytes)
        if len(piece) == self._read_bytes and b"\n" not in piece:
            end = self._end_of_long_line(file)
            if (end or self._searched_to) - self._offset > LINE_MAX_BYTES:
                return self._next(file, is_final) if self._leave_out(file, end) else None
            end = self._searched_to if end is None and is_final else end
            file.seek(self._offset)
            piece = b"" if end is None else file.read(end - self._offset)
        ends_unfinished = is_final and piece and not file.read(1) and not piece.endswith(b"\n")
        batches, end = self._lines.split(piece + b"\n" if ends_unfinished else piece)
        return (batches, piece[:end]) if end else None

    def _end_of_long_line(self, file: BinaryIO) -> int | None:
        """Where the line at the offset ends, None if it does not yet. Nothing is searched twice, at this look or the next."""
        self._searched_to = max(self._searched_to, self._offset)
        file.seek(self._searched_to)
        while piece := file.read(READ_BYTES):
            newline = piece.find(b"\n")
            if newline >= 0:
                return self._searched_to + newline + 1
            self._searched_to += len(piece)
        return None

    def _leave_out(self, file: BinaryIO, end: int | None) -> bool:
        """A line that is too long: told once, and left behind as soon as it ends."""
        if not self._has_long_line:
            self._has_long_line = True
            log.warning(
                "csv.line_too_long: %s has no newline within %d MiB from byte %d on: it is not a row, and is left out",
                self._path,
                LINE_MAX_BYTES >> 20,
                self._offset,
            )
        if end is not None:
            self._offset, self._mark = end, mark_of(file, end)
        return end is not None

    def _may_go_on(self, file: BinaryIO, is_final: bool) -> bool:
        """Find out whether this is the file that was read before; False if that is better decided at the next look."""
        if os.fstat(file.fileno()).st_size < self._offset:
            may_grow_again = self._mark is not None and self._mark.begins(file)
            if may_grow_again and not is_final and self._held_looks < HELD_LOOKS:
                self._held_looks += 1
                return False
            self._begin_anew()
        elif not self._is_same(file):
            self._begin_anew()
        elif self._mark is None:
            self._mark = mark_of(file, self._offset)
        self._held_looks = 0
        return True

    def _is_same(self, file: BinaryIO) -> bool:
        if self._mark is not None:
            return self._mark == mark_of(file, self._offset)
        return ends_with_rows(file, self._offset, queries.newest_rows(self._spool.connection))

    def _begin_anew(self) -> None:
        log.warning("csv.replaced: %s is not what it was before; it is read from its beginning", self._path)
        self._offset = self._searched_to = 0
        self._header = None
        self._mark = CsvMark()

    def _warn_once(self, error: OSError) -> None:
        if not self._is_warned:
            self._is_warned = True
            log.warning("csv.unreadable: %s (%s); its rows are taken over when it is back", self._path, error.strerror)


class UpdateSchedule:
    """Calls `csv_update_fn` before each upload cycle, and in between only as often as its cost allows."""

    def __init__(
        self,
        update: Callable[[], None] | None,
        *,
        upload_interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._update = update
        self._upload_interval_s = upload_interval_s
        self._clock = clock
        self._due_at = clock()
        self._is_warned = False

    def call_if_due(self, *, is_final: bool = False) -> None:
        """Call it if it is due, or at the end anyway. Its failure is logged once and tried again."""
        started_at = self._clock()
        if self._update is None or (started_at < self._due_at and not is_final):
            return
        try:
            self._update()
            self._is_warned = False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the caller's own: what it raises must not stop us
            if not self._is_warned:
                self._is_warned = True
                log.warning("csv_update.failed: %r; it is called again", error)
        took_s = self._clock() - started_at
        self._due_at = started_at + min(self._upload_interval_s, took_s / UPDATE_SHARE)


MARK_BYTES = 256


@dataclass(frozen=True)
class CsvMark:
    """The first bytes of what was taken from a file, and the last ones.

    Not its inode: a file that is written anew under another name and moved into place (`os.replace`), with the former
    rows and more, is still the same to a reader of rows.
    """

    head: bytes = b""
    tail: bytes = b""

    def beyond(self, taken: bytes) -> CsvMark:
        """The mark once these bytes were taken too."""
        head = self.head if len(self.head) == MARK_BYTES else self.head + taken[: MARK_BYTES - len(self.head)]
        return CsvMark(head, (self.tail + taken[-MARK_BYTES:])[-MARK_BYTES:])

    def begins(self, file: BinaryIO) -> bool:
        """Whether a file that is shorter than what was taken may become the same one again: nothing in it differs."""
        file.seek(0)
        return self.head.startswith(file.read(len(self.head)))


def mark_of(file: BinaryIO, offset: int) -> CsvMark:
    """The mark of a file from which so many bytes were taken."""
    file.seek(0)
    head = file.read(min(offset, MARK_BYTES))
    return CsvMark(head, bytes_before(file, offset))


def bytes_before(file: BinaryIO, offset: int, count: int = MARK_BYTES) -> bytes:
    """Up to `count` bytes in front of an offset."""
    file.seek(max(0, offset - count))
    return file.read(min(offset, count))


def ends_with_rows(file: BinaryIO, offset: int, rows: bytes) -> bool:
    """Whether these rows end at the offset; the end of the last line may be missing in the file (it was added)."""
    end = rows[-MARK_BYTES:]
    before = bytes_before(file, offset, len(end))
    return before.endswith((end, end[:-1]))
