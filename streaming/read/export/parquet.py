"""Parquet: a first pass finds each column's type, a second one writes row groups. Memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

from sqlite_utils.utils import TypeTracker

from streaming.errors import BadArgument
from streaming.read.export.rows import RunRows

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as missing:
    raise BadArgument("Parquet needs pyarrow", hint="pip install 'tracker-stream[read]'") from missing

ROW_GROUP_ROWS = 10_000


def write(rows: RunRows, out: BinaryIO) -> None:
    """All rows; a column that is whole numbers throughout is int64, one of numbers float64, any other text."""
    columns = rows.columns()
    kinds = _kinds(rows.records(), columns)
    schema = pyarrow.schema([(name, kinds[name]) for name in columns])
    with parquet.ParquetWriter(out, schema, compression="zstd") as table:
        for group in _groups(rows.records(), ROW_GROUP_ROWS):
            arrays = [
                pyarrow.array([_value(record.get(name), kinds[name]) for record in group], kinds[name])
                for name in columns
            ]
            table.write_batch(pyarrow.record_batch(arrays, schema=schema))


def _kinds(records: Iterable[dict[str, str]], columns: list[str]) -> dict[str, Any]:
    tracker = TypeTracker()
    for _ in tracker.wrap({name: text for name, text in record.items() if text != ""} for record in records):
        pass
    found = {"integer": pyarrow.int64(), "float": pyarrow.float64()}
    return {name: found.get(tracker.types.get(name, "text"), pyarrow.string()) for name in columns}


def _groups(records: Iterator[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    while group := list(islice(records, size)):
        yield group


def _value(text: str | None, kind: Any) -> int | float | str | None:
    if text is None or (text == "" and kind != pyarrow.string()):
        return None
    if kind == pyarrow.int64():
        return int(text)
    return float(text) if kind == pyarrow.float64() else text
