"""One schema: known columns fixed, unknown ones typed by all their cells, and no cell changed by it."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.tables.csv_text import column_names, parse_columns, split_header
from streaming.tables.schema import KNOWN, ColumnKind, Kinds, kind_of, typed


def cells(*texts: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def read(text: str) -> pa.Table:
    table = parse_columns(*split_header(text.encode()))
    kinds = Kinds()
    kinds.learn(table)
    return typed(table, kinds.schema)


def test_there_are_32_known_columns_each_with_a_unit_and_a_meaning() -> None:
    assert len(KNOWN) == 32
    assert all(column.meaning for column in KNOWN.values())


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([], ColumnKind.NOTHING),
        (["", None], ColumnKind.NOTHING),
        (["1", "", "-7", "0"], ColumnKind.WHOLE),
        (["5", "0.5", "1e3", "-2E-7"], ColumnKind.NUMBER),
        (["9223372036854775807"], ColumnKind.WIDE),
        (["9223372036854775807", "0.5"], ColumnKind.TEXT),
        (["18446744073709551615"], ColumnKind.TEXT),
        (["007"], ColumnKind.TEXT),
        (["-0"], ColumnKind.NUMBER),
        (["1_000"], ColumnKind.TEXT),
        (["+1"], ColumnKind.TEXT),
        ([" 1"], ColumnKind.TEXT),
        (["nan"], ColumnKind.TEXT),
        (["0x10"], ColumnKind.TEXT),
        (["1", "x"], ColumnKind.TEXT),
    ],
)
def test_a_kind_holds_every_cell_as_it_is(texts: list[str | None], kind: ColumnKind) -> None:
    assert kind_of(cells(*texts)) is kind
    learnt = ColumnKind.NOTHING
    for text in texts:
        learnt = kind_of(cells(text), learnt)
    assert learnt is kind


NUMBERS = (
    st.integers(-(2**70), 2**70).map(str) | st.floats(allow_nan=False).map(repr) | st.sampled_from(["", "007", "x"])
)


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_no_cell_of_an_unknown_column_changes_its_value(texts: list[str]) -> None:
    table = read("x,y\n" + "".join(f"{text},1\n" for text in texts))
    for text, value in zip(texts, table.column("x").to_pylist(), strict=True):
        if isinstance(value, str):
            assert value == text
        elif value is None:
            assert text == ""
        elif isinstance(value, int):
            assert str(value) == text
        else:
            assert math.isclose(value, float(text), rel_tol=1e-15)


@given(st.permutations(list(ColumnKind)))
def test_kinds_joined_in_any_order_are_the_same(order: list[ColumnKind]) -> None:
    for count in range(1, len(order) + 1):
        joined = ColumnKind.NOTHING
        for kind in order[:count]:
            joined = joined.joined(kind)
        backwards = ColumnKind.NOTHING
        for kind in reversed(order[:count]):
            backwards = backwards.joined(kind)
        assert joined is backwards


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("system_cpu_usage", "1.5", 1.5),
        ("system_cpu_usage", "words", None),
        ("process_children", "", None),
        ("process_children", '""', None),
        ("process_pid", "7.0", 7),
        ("process_pid", "7.5", None),
        ("process_pid", "1e300", None),
        ("timestamp", "1e300", None),
        ("timestamp", "nan", None),
    ],
)
def test_a_known_column_has_its_type_whatever_is_in_it(name: str, text: str, value: Any) -> None:
    table = read(f"{name},other\n{text},1\n")
    assert table.schema.field(name).type == KNOWN[name].type
    assert table.column(name).to_pylist() == [value]


def test_a_timestamp_is_exact_to_the_millisecond() -> None:
    (moment,) = read("timestamp\n1763990000.123\n").column("timestamp").to_pylist()
    assert moment.isoformat() == "2025-11-24T13:13:20.123000+00:00"


def test_names_are_unique() -> None:
    assert column_names(b'a,,"a","b ""x"""\r\n') == ("a", "column_2", "column_3", 'b "x"')
    assert read("a,a\n1,x\n").to_pydict() == {"a": [1], "column_2": ["x"]}
