"""All rows of one run, in the order of time, as columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from operator import is_

import numpy as np

from streaming.server.metrics.frames import TIMESTAMP, Array, Frame


@dataclass(frozen=True)
class _Block:
    """The rows of neighbouring objects with the same columns, put together."""

    names: tuple[str, ...]
    row_count: int
    data: Array

    def column(self, name: str) -> Array:
        if name not in self.names:
            return np.full(self.row_count, np.nan)
        column: Array = self.data[self.names.index(name)]
        return column


@dataclass(frozen=True)
class Extent:
    """In seconds since the epoch: the rows' times, and when their objects were uploaded."""

    first: float | None
    last: float | None
    last_upload_at: float | None
    longest_pause_s: float


class RunRows:
    """Immutable: new objects make a new one, which takes over what the one before had put together."""

    def __init__(self, frames: Sequence[Frame], before: RunRows | None = None) -> None:
        self.frames = tuple(frames)
        self.row_count = sum(frame.row_count for frame in frames)
        self._blocks = _blocks_of(self.frames, before)
        self._columns: dict[str, Array] = {}

    @cached_property
    def names(self) -> list[str]:
        """The numeric columns of all objects, in the order in which they first appear; without the timestamp."""
        found = dict.fromkeys(name for block in self._blocks for name in block.names)
        found.pop(TIMESTAMP, None)
        return list(found)

    @cached_property
    def header(self) -> list[str]:
        """All columns of all objects, text columns too."""
        headers = dict.fromkeys(frame.header for frame in self.frames)
        return list(dict.fromkeys(name for header in headers for name in header))

    @cached_property
    def timestamps(self) -> Array:
        """Seconds since the epoch, ascending; rows without one are left out here and in `column`."""
        return self._order(self._joined(TIMESTAMP))

    def column(self, name: str) -> Array:
        """The numbers beside `timestamps`; NaN where a row has none."""
        if name not in self._columns:
            self._columns[name] = self._order(self._joined(name))
        return self._columns[name]

    def values(self, name: str) -> Array:
        """The finite numbers of the column, of all rows."""
        joined = self._joined(name)
        return joined[np.isfinite(joined)]

    @cached_property
    def extent(self) -> Extent:
        times = self.values(TIMESTAMP)
        uploads = sorted(frame.uploaded_at for frame in self.frames)
        return Extent(
            first=float(times.min()) if len(times) else None,
            last=float(times.max()) if len(times) else None,
            last_upload_at=uploads[-1] if uploads else None,
            longest_pause_s=max((after - before for before, after in pairwise(uploads)), default=0.0),
        )

    def _joined(self, name: str) -> Array:
        if len(self._blocks) == 1:
            return self._blocks[0].column(name)
        return np.concatenate([np.empty(0), *(block.column(name) for block in self._blocks)])

    def _order(self, joined: Array) -> Array:
        positions = self._positions
        return joined if positions is None else joined[positions]

    @cached_property
    def _positions(self) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]] | None:
        """Where the rows in order are to be found; None when they are in order already, as nearly always."""
        times = self._joined(TIMESTAMP)
        usable = np.isfinite(times)
        if usable.all() and bool((np.diff(times) >= 0).all()):
            return None
        return np.flatnonzero(usable)[np.argsort(times[usable], kind="stable")]


def _blocks_of(frames: Sequence[Frame], before: RunRows | None) -> tuple[_Block, ...]:
    """The blocks of before, if its frames are the first of these, and those of the new frames, few and large."""
    known = before.frames if before is not None else ()
    is_continued = len(known) <= len(frames) and all(map(is_, known, frames))
    blocks = list(before._blocks) if before is not None and is_continued else []
    for names, group in groupby(frames[len(known) :] if is_continued else frames, key=lambda frame: frame.names):
        blocks.append(_joined_block(names, [(frame.row_count, frame.data) for frame in group]))
        _merge_last(blocks)
    return tuple(blocks)


def _merge_last(blocks: list[_Block]) -> None:
    """While the last is at least half as large as the one before: each row is copied a few times over a run's whole life."""
    while len(blocks) > 1 and blocks[-1].names == blocks[-2].names and blocks[-1].row_count * 2 >= blocks[-2].row_count:
        last, earlier = blocks.pop(), blocks.pop()
        parts = [(earlier.row_count, earlier.data), (last.row_count, last.data)]
        blocks.append(_joined_block(last.names, parts))


def _joined_block(names: tuple[str, ...], parts: Sequence[tuple[int, Array]]) -> _Block:
    row_count = sum(count for count, _ in parts)
    if not names:
        return _Block(names, row_count, np.empty((0, row_count)))
    return _Block(names, row_count, np.concatenate([data for _, data in parts], axis=1))
