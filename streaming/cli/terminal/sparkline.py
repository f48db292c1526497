"""A series in one line of text, at eight levels; and the series itself, flat in memory however long the run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.-:=+*#"
CELLS = 24


class Series:
    """Average, peak and shape of a series of any length: neighbours are merged whenever it gets too long."""

    def __init__(self, cells: int = CELLS) -> None:
        self._most = 2 * cells
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._per_bucket = 1
        self.peak = 0.0
        self.count = 0
        self._total = 0.0

    def add(self, value: float) -> None:
        self.peak = max(self.peak, value)
        self.count += 1
        self._total += value
        if not self._counts or self._counts[-1] >= self._per_bucket:
            if len(self._counts) == self._most:
                self._merge_neighbours()
            self._sums.append(0.0)
            self._counts.append(0)
        self._sums[-1] += value
        self._counts[-1] += 1

    def _merge_neighbours(self) -> None:
        self._sums = [sum(self._sums[at : at + 2]) for at in range(0, self._most, 2)]
        self._counts = [sum(self._counts[at : at + 2]) for at in range(0, self._most, 2)]
        self._per_bucket *= 2

    @property
    def average(self) -> float:
        return self._total / self.count if self.count else 0.0

    def shape(self) -> list[float]:
        """The averages of its stretches, in order."""
        return [total / count for total, count in zip(self._sums, self._counts, strict=True)]


def sparkline(values: Sequence[float], *, cells: int = CELLS, levels: str = LEVELS) -> str:
    """At most `cells` characters; the lowest level is 0, the highest the largest value."""
    values = _squeezed(values, cells)
    top = max(values, default=0.0)
    if top <= 0:
        return levels[0] * len(values)
    return "".join(levels[min(len(levels) - 1, int(max(0.0, value) / top * len(levels)))] for value in values)


def _squeezed(values: Sequence[float], cells: int) -> list[float]:
    """At most `cells` values; each stands for an equal stretch, by its largest: a peak must not vanish."""
    if len(values) <= cells:
        return list(values)
    edges = [round(at * len(values) / cells) for at in range(cells + 1)]
    return [max(values[start:end]) for start, end in pairwise(edges)]
