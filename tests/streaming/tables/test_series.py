"""Reduction for charts: no peak and no dip is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.tables.series import Window, series

ALL = Window(None, None, 10)


def drawn(times: list[float], values: list[float], window: Window = ALL) -> dict[str, Any]:
    return series(np.array(times, dtype=np.float64), {"a": np.array(values)}.__getitem__, ["a"], window)


def test_few_rows_are_given_as_they_are() -> None:
    answer = drawn([1, 2, 3], [5, np.nan, 7.25])
    assert answer == {
        "row_count": 3,
        "reduced": False,
        "interval_s": 1.0,
        "from": 1.0,
        "to": 3.0,
        "t": [1.0, 2.0, 3.0],
        "columns": {"a": {"min": [5, None, 7.25], "max": [5, None, 7.25], "mean": [5, None, 7.25]}},
    }


def test_many_rows_are_reduced_to_stretches_of_time() -> None:
    times = [float(number) for number in range(100)]
    answer = drawn(times, times)
    assert answer["reduced"] is True
    assert len(answer["t"]) == 10
    assert answer["columns"]["a"]["min"][0] == 0
    assert answer["columns"]["a"]["max"][-1] == 99


def test_a_pause_stays_a_pause() -> None:
    times = [float(number) for number in [*range(50), *range(1000, 1050)]]
    answer = drawn(times, times)
    assert len(answer["t"]) == 2


def test_a_window_holds_the_rows_from_start_to_end_both_included() -> None:
    times = [float(number) for number in range(10)]
    answer = drawn(times, times, Window(2.0, 4.0, 10))
    assert answer["t"] == [2.0, 3.0, 4.0]
    nothing = drawn(times, times, Window(4.0, 2.0, 10))
    assert (nothing["t"], nothing["from"]) == ([], None)
    assert nothing["columns"]["a"] == {"min": [], "max": [], "mean": []}


def test_no_rows() -> None:
    assert drawn([], [])["t"] == []


def test_numbers_are_short_but_right() -> None:
    values = [1 / 3, 1e15 / 3, 2**53 + 2.0, -1e-9 / 3, 0.0, 1e300, 5e-324]
    answer = drawn(list(range(7)), values)
    np.testing.assert_allclose(answer["columns"]["a"]["mean"], values, rtol=1e-6, atol=1e-290)
    assert answer["columns"]["a"]["mean"][0] == 0.3333333


FLOATS = st.floats(-1e6, 1e6) | st.just(float("nan"))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1e9), FLOATS), min_size=1, max_size=200), st.integers(1, 50))
def test_peaks_dips_and_rows_survive_any_reduction(points: list[tuple[float, float]], buckets: int) -> None:
    points = sorted(points, key=lambda point: point[0])
    times, values = [point[0] for point in points], np.array([point[1] for point in points])
    answer = drawn(times, values.tolist(), Window(None, None, buckets))
    assert len(answer["t"]) <= max(buckets, 1)
    assert answer["t"] == sorted(answer["t"])
    column = answer["columns"]["a"]
    assert len({len(answer["t"]), *(len(part) for part in column.values())}) == 1
    if np.isfinite(values).any():
        lowest = min(value for value in column["min"] if value is not None)
        highest = max(value for value in column["max"] if value is not None)
        np.testing.assert_allclose([lowest, highest], [np.nanmin(values), np.nanmax(values)], rtol=1e-6, atol=1e-290)
    else:
        assert set(column["mean"]) == {None}
