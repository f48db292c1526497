"""Columns over time, reduced to what a chart can show: minimum, maximum and mean of one stretch of time per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streaming.tables.figures import Array

_SIGNIFICANT_DIGITS = 7
Indices = np.ndarray[tuple[int, ...], np.dtype[np.intp]]


@dataclass(frozen=True)
class Window:
    """What a chart asks for: seconds since the epoch (None: from the first, to the last row) and how many points."""

    start: float | None
    end: float | None
    points: int


def series(times: Array, column: Callable[[str], Array], names: Iterable[str], window: Window) -> dict[str, Any]:
    """`t` and, per column beside `times` (ascending), `min`, `max` and `mean` of equal length; None where is no number.

    With no more rows than points, every row is its own point and `reduced` is false.
    """
    first, last = _slice(times, window)
    times = times[first:last]
    starts = _bucket_starts(times, window.points)
    return {
        "row_count": int(last - first),
        "interval_s": _usual_interval_s(times),
        "reduced": len(starts) < len(times),
        "from": _json_time(times[0]) if len(times) else None,
        "to": _json_time(times[-1]) if len(times) else None,
        "t": [_json_time(time) for time in _bucket_times(times, starts)],
        "columns": {name: _reduced(column(name)[first:last], starts) for name in names},
    }


def _slice(times: Array, window: Window) -> tuple[int, int]:
    first = 0 if window.start is None else int(np.searchsorted(times, window.start, "left"))
    last = len(times) if window.end is None else int(np.searchsorted(times, window.end, "right"))
    return first, max(first, last)


def _usual_interval_s(times: Array) -> float | None:
    """The median time from row to row: what a count per sample is divided by, to be shown per second."""
    return _json_time(float(np.median(np.diff(times)))) if len(times) > 1 else None


def _bucket_starts(times: Array, points: int) -> Indices:
    """Where each stretch with a row in it begins. Stretches are equally long, so a pause in the rows stays a pause."""
    if len(times) <= points:
        return np.arange(len(times))
    edges = np.linspace(times[0], times[-1], points, endpoint=False)
    return np.unique(np.searchsorted(times, edges, "left"))


def _bucket_times(times: Array, starts: Indices) -> Array:
    """The middle of each stretch's rows."""
    if not len(starts):
        return times
    ends = np.append(starts[1:], len(times)) - 1
    middle: Array = (times[starts] + times[ends]) / 2
    return middle


def _reduced(values: Array, starts: Indices) -> dict[str, list[float | None]]:
    if not len(starts):
        return {"min": [], "max": [], "mean": []}
    missing = np.isnan(values)
    counts = np.add.reduceat(~missing, starts, dtype=np.float64)
    sums = np.add.reduceat(np.where(missing, 0.0, values), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    lowest, highest = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return {"min": _json_numbers(lowest), "max": _json_numbers(highest), "mean": _json_numbers(means)}


def _json_numbers(values: Array) -> list[float | None]:
    """Rounded to what a chart can show, whole numbers without a fraction, NaN as None."""
    magnitude = np.where((values == 0) | np.isnan(values), 1.0, np.abs(values))
    digits = _SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(magnitude))
    scale = np.power(10.0, np.clip(digits, -300, 300))
    rounded = np.round(values * scale) / scale
    return [None if value != value else _short(value) for value in rounded.tolist()]


def _json_time(value: float) -> float:
    return round(float(value), 3)


def _short(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
