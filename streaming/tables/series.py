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
    starts = bucket_starts(times, window.points)
    return {
        "row_count": int(last - first),
        "interval_s": usual_interval_s(times),
        "reduced": len(starts) < len(times),
        "from": _json_time(times[0]) if len(times) else None,
        "to": _json_time(times[-1]) if len(times) else None,
        "t": [_json_time(time) for time in bucket_times(times, starts)],
        "columns": {name: _as_json(reduced(column(name)[first:last], starts)) for name in names},
    }


def _slice(times: Array, window: Window) -> tuple[int, int]:
    first = 0 if window.start is None else int(np.searchsorted(times, window.start, "left"))
    last = len(times) if window.end is None else int(np.searchsorted(times, window.end, "right"))
    return first, max(first, last)


def usual_interval_s(times: Array) -> float | None:
    """The median time from row to row: what a count per sample is divided by, to be shown per second."""
    return _json_time(float(np.median(np.diff(times)))) if len(times) > 1 else None


def bucket_starts(times: Array, points: int) -> Indices:
    """Where each stretch with a row in it begins. Stretches are equally long, so a pause in the rows stays a pause."""
    if len(times) <= points:
        return np.arange(len(times))
    edges = np.linspace(times[0], times[-1], points, endpoint=False)
    return np.unique(np.searchsorted(times, edges, "left"))


def bucket_times(times: Array, starts: Indices) -> Array:
    """The middle of each stretch's rows."""
    if not len(starts):
        return times
    ends = np.append(starts[1:], len(times)) - 1
    middle: Array = (times[starts] + times[ends]) / 2
    return middle


def reduced(values: Array, starts: Indices) -> dict[str, Array]:
    """Minimum, maximum and mean of what is known in each stretch; NaN where nothing is."""
    if not len(starts):
        return dict.fromkeys(("min", "max", "mean"), np.empty(0))
    missing = np.isnan(values)
    counts = np.add.reduceat(~missing, starts, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = np.add.reduceat(np.where(missing, 0.0, values), starts) / counts
    return {"min": np.fmin.reduceat(values, starts), "max": np.fmax.reduceat(values, starts), "mean": means}


def time_order(times: Array) -> Indices | None:
    """Where the rows that have a time are to be found in its order; None when that is all of them as they are, as nearly
    always: a clock that was set back leaves rows out of order.
    """
    usable = np.isfinite(times)
    if usable.all() and bool((np.diff(times) >= 0).all()):
        return None
    return np.flatnonzero(usable)[np.argsort(times[usable], kind="stable")]


def _as_json(columns: dict[str, Array]) -> dict[str, list[float | None]]:
    return {kind: _json_numbers(values) for kind, values in columns.items()}


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
