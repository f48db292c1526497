"""One object's rows as an array of numbers.

Arrow parses: first as if every column held numbers (nearly always so, and four times as fast), then with types inferred.
What it refuses (ragged lines, words among numbers) is read cell by cell. A cell that is no finite number is NaN. Text
columns are not kept: whoever wants them downloads the CSV.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as arrow_csv

from streaming.server.gunzip import NotGzip, TooLarge, gunzip

MAX_PLAIN_BYTES = 128 * 2**20
TIMESTAMP = "timestamp"

Array = npt.NDArray[np.float64]
_NULLS = ["", "NA", "NaN", "nan", "None", "null", "N/A"]


@dataclass(frozen=True)
class Frame:
    """An object as it was read. `data` has one row per name of `names`. With `error` it has no rows."""

    key: str
    etag: str
    size_bytes: int
    uploaded_at: float
    sha256: str = ""
    header: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    row_count: int = 0
    error: str | None = None
    data: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)

    def column(self, name: str) -> Array:
        """The column's numbers; all NaN if the object does not have it."""
        if name not in self.names:
            return np.full(self.row_count, np.nan)
        column: Array = self.data[self.names.index(name)]
        return column

    @cached_property
    def time_range(self) -> tuple[float, float] | None:
        """The earliest and latest timestamp."""
        times = self.column(TIMESTAMP)
        times = times[np.isfinite(times)]
        return (float(times.min()), float(times.max())) if len(times) else None


def read_frame(content: bytes, *, key: str, etag: str, size_bytes: int, uploaded_at: float) -> Frame:
    """Parse an object (gzip CSV); what cannot be read becomes a frame with an `error`, never an exception."""
    try:
        plain = gunzip(content, limit=MAX_PLAIN_BYTES)
        return frame_of_csv(plain, key=key, etag=etag, size_bytes=size_bytes, uploaded_at=uploaded_at)
    except (NotGzip, TooLarge, UnicodeDecodeError) as exc:
        return Frame(key, etag, size_bytes, uploaded_at, error=str(exc))


def frame_of_csv(plain: bytes, *, key: str, etag: str, size_bytes: int, uploaded_at: float) -> Frame:
    """Parse CSV text with a header line. Raises UnicodeDecodeError."""
    parsed = _parse(plain)
    return Frame(
        key,
        etag,
        size_bytes,
        uploaded_at,
        sha256=hashlib.sha256(plain).hexdigest(),
        header=parsed.header,
        names=parsed.names,
        row_count=parsed.row_count,
        data=parsed.data,
    )


@dataclass(frozen=True)
class _Parsed:
    header: tuple[str, ...]
    names: tuple[str, ...]
    row_count: int
    data: Array


def _parse(plain: bytes) -> _Parsed:
    for parse in (_parse_numbers, _parse_inferred):
        try:
            return parse(plain)
        except (pa.ArrowException, KeyError, StopIteration, TypeError, ValueError, csv.Error):
            continue
    return _parse_tolerantly(plain.decode())


def _parse_numbers(plain: bytes) -> _Parsed:
    header = next(csv.reader([plain.partition(b"\n")[0].decode()]))
    table = _read(plain, column_types=dict.fromkeys(header, pa.float64()))
    data = np.array([column.to_numpy() for column in table.columns]).reshape(len(table.columns), table.num_rows)
    names = tuple(table.column_names)
    return _Parsed(names, names, table.num_rows, _finite(data))


def _parse_inferred(plain: bytes) -> _Parsed:
    table = _read(plain, strings_can_be_null=True)
    columns = {name: _numbers(table.column(name)) for name in table.column_names}
    return _parsed(tuple(table.column_names), table.num_rows, columns)


def _read(plain: bytes, **conversion: Any) -> Any:
    return arrow_csv.read_csv(
        pa.py_buffer(plain),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(plain) + 1),
        convert_options=arrow_csv.ConvertOptions(null_values=_NULLS, **conversion),
    )


def _parsed(header: tuple[str, ...], row_count: int, columns: dict[str, Array | None]) -> _Parsed:
    found = {name: numbers for name, numbers in columns.items() if numbers is not None}
    data = np.array(list(found.values())) if found else np.empty((0, row_count))
    return _Parsed(header, tuple(found), row_count, data)


def _numbers(column: Any) -> Array | None:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _finite(
            np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
        )
    if pa.types.is_string(kind):
        return _numbers_among(column.to_pylist())
    return None


def _numbers_among(cells: Iterable[str | None]) -> Array | None:
    """The numbers among the cells; None if there is none."""
    found = np.array([_number(cell) for cell in cells], dtype=np.float64)
    return found if np.isfinite(found).any() else None


def _number(cell: str | None) -> float:
    try:
        value = float(cell or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _finite(values: Array) -> Array:
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def _parse_tolerantly(text: str) -> _Parsed:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = tuple(next(_rows(reader), []))
    rows = list(_rows(reader))
    columns = {
        name: _numbers_among(row[index] if index < len(row) else None for row in rows)
        for index, name in enumerate(header)
    }
    return _parsed(header, len(rows), columns)


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows up to the first that csv cannot read."""
    try:
        yield from (row for row in reader if row)
    except csv.Error:
        return
