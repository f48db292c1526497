"""What a damaged spool still tells: every row of its tables that can be recognised, wherever its page lies.

A row is recognised by the number and types of its columns, not by the schema, which may be damaged itself. Pages that are
not in use any more, and earlier images of pages in the rollback journal, count too: batches never change, so a verified
one is right wherever it was found; of the run and of segments the most advanced version is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spool.database import decode
from spool.database.connection import PAGE_BYTES, SMALL_PAGE_BYTES
from spool.errors import SpoolDamaged
from spool.model import RunState, SegmentState, Tracker
from spool.recovery import sqlite_pages
from spool.recovery.sqlite_pages import PageFile, Unreadable

# One letter per column, in the order of `schema.TABLES` (see `pages.is_record_of`); 0 is the row id, stored elsewhere.
_RUN = "0tttrbTtTTTtTrTTRRITTRTTTR"
_HEADER = "0b"
_BATCH = "0iiIrbb"
_SEGMENT = "0iiiiittrRTTiT"
_SEQUENCE = "ti"
RUN_COLUMNS = len(_RUN)
SEGMENT_COLUMNS = len(_SEGMENT)
_RECORD_HEADER_BYTES = 256
NOBODY = Tracker(pid=0, started_at="", boot_id="", pid_namespace="", host="")
# The JSON objects of a run record, by the number of their column, and what stands for one that is lost.
_RUN_OBJECTS = {3: "tracker", 7: "metadata", 8: "host facts", 9: "cloud facts", 20: "answer to the finish"}
_NOTHING: dict[int, str | None] = {3: json.dumps(asdict(NOBODY)), 7: "{}", 8: None, 9: None, 20: None}
_RUN_COLUMNS_READ = (1, 2, 3, 4, *range(7, 14), 6, 14, 15, *range(17, 26))  # those of `decode.RUN_COLUMNS`
_RUN_STATES = [state.value for state in RunState]
_SEGMENT_STATES = [SegmentState.SEALED.value, SegmentState.REJECTED.value, SegmentState.SENT.value]

FoundBatch = tuple[int, int, int, int | None, float, bytes, bytes]


@dataclass(frozen=True)
class FoundSegment:
    """A segment's row, all columns in order."""

    row: tuple[Any, ...]

    @classmethod
    def nowhere(cls) -> FoundSegment:
        """Stands before the first segment."""
        return cls((0, 0, 0))

    @property
    def seq(self) -> int:
        return int(self.row[0])

    @property
    def first_batch_id(self) -> int:
        return int(self.row[1])

    @property
    def last_batch_id(self) -> int:
        return int(self.row[2])

    @property
    def row_count(self) -> int:
        return int(self.row[4])

    @property
    def is_sent(self) -> bool:
        return bool(self.row[7] == SegmentState.SENT.value)

    def is_possible(self) -> bool:
        """Whether its numbers can be a segment's."""
        seq, first, last, _, row_count, csv_bytes = self.row[:6]
        return seq > 0 and 0 < first <= last and row_count >= 0 and csv_bytes >= 0 and self.row[7] in _SEGMENT_STATES


@dataclass
class Findings:
    """The rows that were found. `segments` in order, without overlaps; `sequence`: the highest ids ever given;
    `lost_facts`: what of the run record could not be read."""

    run: list[Any] | None = None
    lost_facts: tuple[str, ...] = ()
    segments: list[FoundSegment] = field(default_factory=list)
    sequence: dict[str, int] = field(default_factory=dict)
    began_at: float | None = None
    _headers: dict[int, list[bytes]] = field(default_factory=dict)
    _batches: _BatchPlaces | None = None

    def headers_by_id(self) -> Iterator[tuple[int, bytes]]:
        yield from ((header_id, found[0]) for header_id, found in sorted(self._headers.items()))

    def batches(self) -> Iterator[FoundBatch]:
        """Every batch whose checksum fits, in order."""
        if self._batches is not None:
            yield from self._batches.verified(self._headers)


def search(descriptor: int, journal: bytes) -> Findings:
    """Everything that can be recognised in a damaged spool file (open as `descriptor`) and its journal."""
    found = Findings()
    for page_bytes in _page_sizes(descriptor):
        search = _Search(PageFile(descriptor, page_bytes))
        search.read_database()
        search.read_journal(journal)
        found = search.findings()
        if found.run is not None:
            break
    return found


def _page_sizes(descriptor: int) -> list[int]:
    """The file's page size by its header; every one that there is, the usual one last, where the header is damaged."""
    said = int.from_bytes(os.pread(descriptor, 2, 16), "big")
    return [said] if said in (PAGE_BYTES, SMALL_PAGE_BYTES) else [SMALL_PAGE_BYTES, PAGE_BYTES]


class _BatchPlaces:
    """Where batches were found: page and offset in one number (there may be millions), pages of the journal negative."""

    def __init__(self, file: PageFile) -> None:
        self._file = file
        self._journal: list[bytes] = []
        self._places: dict[int, int] = {}
        self._more_places: dict[int, list[int]] = {}

    def add_journal_page(self, page: bytes) -> int:
        self._journal.append(page)
        return -len(self._journal)

    def add(self, batch_id: int, number: int, at: int) -> None:
        place = (number << 16) | at
        if self._places.setdefault(batch_id, place) != place:
            self._more_places.setdefault(batch_id, []).append(place)

    def has(self, batch_id: int) -> bool:
        return batch_id in self._places

    def verified(self, headers: dict[int, list[bytes]]) -> Iterator[FoundBatch]:
        """Each batch once, in order, if one of its versions fits its checksum under a header that was found.

        Puts the header that fitted first in its list.
        """
        for batch_id in sorted(self._places):
            for place in (self._places[batch_id], *self._more_places.get(batch_id, ())):
                batch = self._read(batch_id, place)
                if batch is not None and _fits(batch, headers.get(batch[1], [])):
                    yield batch
                    break

    def _read(self, batch_id: int, place: int) -> FoundBatch | None:
        number, at = place >> 16, place & 0xFFFF
        try:
            page = self._journal[-number - 1] if number < 0 else self._file.page(number)
            _, payload = sqlite_pages.table_cell(self._file, page, at)
            _, header_id, row_count, csv_offset, appended_at, sha256, csv = sqlite_pages.record(payload)
        except (Unreadable, ValueError):
            return None
        return (batch_id, header_id, row_count, csv_offset, float(appended_at), sha256, csv)  # type: ignore[return-value,arg-type]

    def first_time(self) -> float | None:
        """When the earliest of the readable batches was appended."""
        found = (self._read(batch_id, place) for batch_id, place in sorted(self._places.items())[:100])
        return next((batch[4] for batch in found if batch is not None), None)


def _fits(batch: FoundBatch, headers: list[bytes]) -> bool:
    _, _, row_count, _, _, sha256, csv = batch
    for number, header in enumerate(headers):
        digest = hashlib.sha256(header)
        digest.update(csv)
        if digest.digest() == sha256 and csv.count(b"\n") == row_count:
            headers.insert(0, headers.pop(number))
            return True
    return False


class _Search:
    """Walks over all leaves and sorts what it finds."""

    def __init__(self, file: PageFile) -> None:
        self._file = file
        self._batches = _BatchPlaces(file)
        self._headers: dict[int, list[bytes]] = {}
        self._runs: list[list[Any]] = []
        self._segments: dict[int, FoundSegment] = {}
        self._sequence: dict[str, int] = {}

    def read_database(self) -> None:
        for number, page in self._file.leaves(sqlite_pages.TABLE_LEAF):
            self._read_leaf(page, number)
        for number, page in self._file.leaves(sqlite_pages.INDEX_LEAF):
            self._read_index(page, number)

    def read_journal(self, journal: bytes) -> None:
        for page in sqlite_pages.journal_pages(journal, self._file.page_bytes, sqlite_pages.TABLE_LEAF):
            self._read_leaf(page, self._batches.add_journal_page(page))

    def _read_leaf(self, page: bytes, number: int) -> None:
        numbered: list[tuple[int, int, int]] = []
        for at in sqlite_pages.cell_offsets(page, number=number):
            with suppress(Unreadable, ValueError):
                _, behind_size = sqlite_pages.varint(page, at)
                row_id, start = sqlite_pages.varint(page, behind_size)
                numbered.append((row_id, at, start))
        for row_id, at, start in _as_neighbours_say(numbered):
            with suppress(Unreadable, ValueError):
                self._read_cell(page, number, row_id, at, start)

    def _read_cell(self, page: bytes, number: int, row_id: int, at: int, start: int) -> None:
        types, _ = sqlite_pages.serial_types(page[start : start + _RECORD_HEADER_BYTES])
        if sqlite_pages.is_record_of(types, _BATCH):
            self._batches.add(row_id, number, at)
            return
        shapes = {
            _RUN: self._add_run,
            _SEGMENT: self._add_segment,
            _HEADER: self._add_header,
            _SEQUENCE: self._add_sequence,
        }
        for shape, add in shapes.items():
            if sqlite_pages.is_record_of(types, shape):
                _, payload = sqlite_pages.table_cell(self._file, page, at)
                add(row_id, sqlite_pages.record(payload, is_strict=shape is not _RUN))

    def _read_index(self, page: bytes, number: int) -> None:
        """The index over the headers holds each of them a second time."""
        for at in sqlite_pages.cell_offsets(page, number=number):
            try:
                values = sqlite_pages.record(sqlite_pages.index_cell(self._file, page, at))
            except (Unreadable, ValueError):
                continue
            if len(values) == 2 and isinstance(values[0], bytes) and isinstance(values[1], int):
                self._add_header(values[1], [None, values[0]])

    def _add_run(self, _row_id: int, values: list[Any]) -> None:
        if values[2] in _RUN_STATES and _is_run(_with_nothing_in(values, _RUN_OBJECTS)):
            self._runs.append(values)

    def _add_header(self, row_id: int, values: list[Any]) -> None:
        known = self._headers.setdefault(row_id, [])
        if values[1] not in known:
            known.append(values[1])

    def _add_segment(self, row_id: int, values: list[Any]) -> None:
        segment = FoundSegment((row_id, *values[1:]))
        if not segment.is_possible():
            return
        known = self._segments.get(row_id)
        if known is None or _SEGMENT_STATES.index(segment.row[7]) > _SEGMENT_STATES.index(known.row[7]):
            self._segments[row_id] = segment

    def _add_sequence(self, _row_id: int, values: list[Any]) -> None:
        name, seq = values
        if name in ("batch", "segment", "header"):
            self._sequence[name] = max(seq, self._sequence.get(name, 0))

    def findings(self) -> Findings:
        run, lost_facts = _newest_run(self._runs)
        prefix = None if run is None else run[15]
        segments = [self._unless_foreign(segment, prefix) for segment in self._segments.values()]
        for _ in self._batches.verified(self._headers):
            if all(len(found) == 1 for found in self._headers.values()):
                break  # nothing to choose between
        return Findings(
            run=run,
            lost_facts=lost_facts,
            segments=without_overlaps(segments),
            sequence=self._sequence,
            began_at=self._batches.first_time(),
            _headers=self._headers,
            _batches=self._batches,
        )

    def _unless_foreign(self, segment: FoundSegment, prefix: str | None) -> FoundSegment:
        """A segment sent below another prefix than the run's, as far as we know that, is sent again if it still can be."""
        is_below = prefix is not None and str(segment.row[10]).startswith(f"{prefix}/")
        if not segment.is_sent or is_below or not self._batches.has(segment.first_batch_id):
            return segment
        row = list(segment.row)
        row[7], row[9], row[10], row[11] = SegmentState.SEALED.value, None, None, None
        return FoundSegment(tuple(row))


def _as_neighbours_say(cells: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The cells of a page, each with its own number: no checksum covers that, but between 6 and 8 is 7."""
    for before, cell, behind in zip([None, *cells], cells, [*cells[1:], None], strict=False):
        is_pinned = before is not None and behind is not None and behind[0] - before[0] == 2
        yield (before[0] + 1, *cell[1:]) if before is not None and is_pinned else cell


def _newest_run(runs: list[list[Any]]) -> tuple[list[Any] | None, tuple[str, ...]]:
    """The most advanced version of the run record, and what of it is lost.

    An object in it that is damaged is taken from another version: those that describe the run hardly ever change.
    """
    newest = max(runs, key=_progress, default=None)
    if newest is None:
        return None, ()
    broken = {
        at: name for at, name in _RUN_OBJECTS.items() if not _is_run(_with_nothing_in(newest, _RUN_OBJECTS, but=at))
    }
    mended = _with_nothing_in(newest, broken)
    lost = []
    for at, name in broken.items():
        others = (
            run[at] for run in runs if run[1] == newest[1] and _is_run(_with_nothing_in(run, _RUN_OBJECTS, but=at))
        )
        mended[at] = next(others, mended[at])
        if mended[at] == _NOTHING[at]:
            lost.append(name)
    return mended, tuple(lost)


def _with_nothing_in(run: list[Any], columns: Iterable[int], *, but: int = 0) -> list[Any]:
    """A copy of a run record that says nothing in these columns."""
    return [_NOTHING[at] if at in columns and at != but else value for at, value in enumerate(run)]


def _is_run(values: list[Any]) -> bool:
    try:
        decode.run(tuple(values[at] for at in _RUN_COLUMNS_READ), Path())
    except SpoolDamaged:
        return False
    return True


def _progress(run: list[Any]) -> tuple[int, bool, float]:
    """How far a version of the run record is: state, registration, time of the end."""
    return _RUN_STATES.index(run[2]), run[14] is not None, run[17] or 0.0


def without_overlaps(segments: list[FoundSegment]) -> list[FoundSegment]:
    """In order of their batches; of two that claim the same batches the sent one stays, else the earlier."""
    chosen: list[FoundSegment] = []
    for segment in sorted(segments, key=lambda each: (each.first_batch_id, not each.is_sent, each.seq)):
        if not chosen or segment.first_batch_id > chosen[-1].last_batch_id:
            chosen.append(segment)
        elif segment.is_sent and not chosen[-1].is_sent:
            chosen[-1] = segment
    return chosen
