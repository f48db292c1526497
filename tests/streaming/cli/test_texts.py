"""Numbers, sparklines and tables as text: pure, at any width, without control characters."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.cli.terminal.sparkline import ASCII_LEVELS, LEVELS, Series, sparkline
from streaming.cli.terminal.table import Column, clean, cropped, lay_out, text_of, width_of
from streaming.read import quantity

COLUMNS = (
    Column("RUN"),
    Column("JOB", shrinks_to=6, rank=2),
    Column("STARTED", rank=1),
    Column("ROWS", align_right=True),
)


DURATIONS = {
    None: "-",
    0.04: "0.0 s",
    8.24: "8.2 s",
    59.4: "59 s",
    200: "3 min 20 s",
    900: "15 min",
    3600: "1 h",
    7500: "2 h 05 min",
    273_600: "3 d 4 h",
    604_800: "7 d",
}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations(seconds: float | None, text: str) -> None:
    assert quantity.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (34_000_000, "34 MB"), (5e15, "5000 TB")]
)
def test_sizes(number: float, text: str) -> None:
    assert quantity.size(number) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), (" 2W ", 1_209_600)]
)
def test_ages(text: str, seconds: float) -> None:
    assert quantity.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "soon", "inf", "nan", "1y"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        quantity.parse_duration(text)


def test_sparkline_shows_eight_levels_and_its_peak() -> None:
    assert sparkline(range(8)) == LEVELS
    assert sparkline(range(8), levels=ASCII_LEVELS) == ASCII_LEVELS
    spiked = [1.0] * 1000
    spiked[500] = 8.0
    assert sparkline(spiked, cells=10).count("█") == 1


def test_sparkline_of_nothing_and_of_zeros() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0, 0]) == "▁▁▁"


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=3000))
def test_series_keeps_average_and_peak_in_bounded_room(values: list[float]) -> None:
    series = Series(cells=8)
    for value in values:
        series.add(value)
    assert series.peak == max(values)
    assert series.average == pytest.approx(sum(values) / len(values), rel=1e-6, abs=1e-6)
    assert 1 <= len(series.shape()) <= 16


@given(
    st.lists(st.tuples(*[st.text(max_size=30)] * 4), min_size=1, max_size=5),
    st.integers(20, 120),
)
def test_table_fits_its_width_where_it_can(cells: list[tuple[str, ...]], width: int) -> None:
    rows = [[(clean(cell), "") for cell in row] for row in cells]
    lines = lay_out(COLUMNS, rows, width=width)
    assert len(lines) == len(rows) + 1
    fixed = sum(max(width_of(COLUMNS[at].title), *(width_of(row[at][0]) for row in rows)) for at in (0, 3)) + 2
    if fixed <= width:
        assert all(width_of(text_of(line)) <= width for line in lines)


def test_least_important_column_goes_first_and_long_names_shrink() -> None:
    rows = [[("3f2a9c01", ""), ("a very long job name", ""), ("2026-11-24", ""), ("1,234", "")]]
    wide = text_of(lay_out(COLUMNS, rows, width=None)[1])
    assert wide == "3f2a9c01  a very long job name  2026-11-24  1,234"
    narrow = [text_of(line) for line in lay_out(COLUMNS, rows, width=30)]
    assert narrow == ["RUN       JOB             ROWS", "3f2a9c01  a very long …  1,234"]


@given(st.text(), st.integers(0, 20))
def test_cropped_text_fits(text: str, width: int) -> None:
    shown = cropped(clean(text), width)
    assert width_of(shown) <= max(width, 0) or len(shown) <= width


@given(st.text())
def test_cleaned_text_has_no_control_character(text: str) -> None:
    assert not any(unicodedata.category(character) in ("Cc", "Cf") for character in clean(text))
