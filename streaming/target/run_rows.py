"""All rows of one run, in the order of time, as columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .frames import TIMESTAMP, Array, Frame


class RunRows:
    """Immutable: new objects make a new one. Columns are put together when they are first asked for, then kept."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = tuple(frames)
        self.row_count = sum(frame.row_count for frame in frames)
        self._columns: dict[str, Array] = {}

    @cached_property
    def names(self) -> list[str]:
        """The numeric columns of all objects, in the order in which they first appear; without the timestamp."""
        found = dict.fromkeys(name for frame in self.frames for name in frame.names)
        found.pop(TIMESTAMP, None)
        return list(found)

    @cached_property
    def header(self) -> list[str]:
        """All columns of all objects, text columns too."""
        return list(dict.fromkeys(name for frame in self.frames for name in frame.header))

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

    def _joined(self, name: str) -> Array:
        return np.concatenate([np.empty(0), *(frame.column(name) for frame in self.frames)])

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
