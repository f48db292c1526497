"""The columns of a run's rows, with their types and units: the one place that says so.

The 32 known columns have the same type in every run. A column that is not known is whole numbers, numbers or text,
decided once for a run from all its cells, and only where no cell is changed by it: `007`, `1_000` and 2^64-1 stay text.
A cell of a known column that is no number of its kind is null; an export to Parquet has such a column as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMP = "timestamp"
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_EXACT_IN_DOUBLE = 2**53


@dataclass(frozen=True)
class KnownColumn:
    """What is known of a column."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_TIME, _COUNT, _NUM = pa.timestamp("us", tz="UTC"), pa.int64(), pa.float64()
_BOTH = (
    ("utime", _NUM, "s", "CPU time in user mode since the row before"),
    ("stime", _NUM, "s", "CPU time in the kernel since the row before"),
    ("cpu_usage", _NUM, "cores", "CPU cores in use"),
    ("disk_read_bytes", _NUM, "bytes", "read from disks since the row before"),
    ("disk_write_bytes", _NUM, "bytes", "written to disks since the row before"),
    ("gpu_usage", _NUM, "GPUs", "GPUs in use"),
    ("gpu_vram_mib", _NUM, "MiB", "GPU memory in use"),
    ("gpu_utilized", _COUNT, "GPUs", "GPUs that do anything"),
)
_SYSTEM = (
    ("processes", _COUNT, "processes", "processes that run"),
    ("memory_free_mib", _NUM, "MiB", "memory free"),
    ("memory_used_mib", _NUM, "MiB", "memory in use"),
    ("memory_buffers_mib", _NUM, "MiB", "memory in buffers"),
    ("memory_cached_mib", _NUM, "MiB", "memory in the page cache"),
    ("memory_active_mib", _NUM, "MiB", "memory used lately"),
    ("memory_inactive_mib", _NUM, "MiB", "memory not used lately"),
    ("disk_space_total_gb", _NUM, "GB", "size of all disks"),
    ("disk_space_used_gb", _NUM, "GB", "disk space in use"),
    ("disk_space_free_gb", _NUM, "GB", "disk space free"),
    ("net_recv_bytes", _NUM, "bytes", "received from the network since the row before"),
    ("net_sent_bytes", _NUM, "bytes", "sent to the network since the row before"),
)
_PROCESS = (
    ("pid", _COUNT, "", "process id of the tracked process"),
    ("children", _COUNT, "processes", "its descendants"),
    ("memory_mib", _NUM, "MiB", "memory of the process and its descendants, shared pages counted in part"),
)
_TEXTS = (
    (TIMESTAMP, _TIME, "UTC", "when the row was measured"),
    *((f"system_{name}", kind, unit, f"{text} (whole machine)") for name, kind, unit, text in (*_SYSTEM, *_BOTH)),
    *(
        (f"process_{name}", kind, unit, f"{text} (tracked process tree)")
        for name, kind, unit, text in (*_PROCESS, *_BOTH)
    ),
)
KNOWN = {name: KnownColumn(name, kind, unit, text) for name, kind, unit, text in _TEXTS}


class ColumnKind(IntEnum):
    """What the cells of an unknown column seen so far allow. Joining two kinds gives the narrowest that holds both."""

    NOTHING = 0
    WHOLE = 1  # whole numbers that a float holds exactly
    WIDE = 2  # whole numbers, some beyond that
    NUMBER = 3
    TEXT = 4

    def joined(self, other: ColumnKind) -> ColumnKind:
        high = max(self, other)
        return ColumnKind.TEXT if high is ColumnKind.NUMBER and ColumnKind.WIDE in (self, other) else high

    @property
    def type(self) -> pa.DataType:
        return {ColumnKind.WHOLE: pa.int64(), ColumnKind.WIDE: pa.int64(), ColumnKind.NUMBER: pa.float64()}.get(
            self, pa.string()
        )


class Kinds(dict[str, ColumnKind]):
    """The kind of each unknown column, learnt from tables as they come; columns in the order in which they appeared."""

    def learn(self, table: pa.Table) -> None:
        """Take in the cells of a table of `csv_text`: known columns are numbers there, unknown ones text."""
        for name in table.column_names:
            known = (
                ColumnKind.NOTHING if name in KNOWN else kind_of(table.column(name), self.get(name, ColumnKind.NOTHING))
            )
            self[name] = known

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, KNOWN[name].type if name in KNOWN else kind.type) for name, kind in self.items()])


def merged(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all; where types differ, the one that holds them all."""
    types: dict[str, pa.DataType] = {}
    for field in (field for schema in schemas for field in schema):
        kind = types.setdefault(field.name, field.type)
        if kind != field.type:
            are_numbers = all(not pa.types.is_string(one) for one in (kind, field.type))
            types[field.name] = pa.float64() if are_numbers else pa.string()
    return pa.schema(list(types.items()))


def kind_of(cells: pa.ChunkedArray, known: ColumnKind = ColumnKind.NOTHING) -> ColumnKind:
    """What these cells of text allow, beside what was `known`. Empty cells say nothing."""
    if known is ColumnKind.TEXT:
        return known
    cells = cells.filter(pc.fill_null(pc.not_equal(cells, ""), False))
    if not len(cells):
        return known
    if pc.all(pc.match_substring_regex(cells, _WHOLE)).as_py():
        try:
            bounds = pc.min_max(cells.cast(pa.int64())).as_py()
        except pa.ArrowInvalid:  # beyond 64 bits
            return ColumnKind.TEXT
        is_exact = max(abs(bounds["min"]), abs(bounds["max"])) < _EXACT_IN_DOUBLE
        return known.joined(ColumnKind.WHOLE if is_exact else ColumnKind.WIDE)
    if not pc.all(pc.match_substring_regex(cells, _NUMBER)).as_py():
        return ColumnKind.TEXT
    whole = cells.filter(pc.match_substring_regex(cells, "^-?[0-9]+$"))
    values = whole.cast(pa.float64())
    is_exact = not len(whole) or pc.all(pc.less(pc.abs(values), float(_EXACT_IN_DOUBLE))).as_py()
    return known.joined(ColumnKind.NUMBER if is_exact else ColumnKind.TEXT)


def typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table of `csv_text` in these columns; what it lacks is null."""
    return pa.table([_column(table, field) for field in schema], schema=schema)


def _column(table: pa.Table, field: pa.Field) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    return _cast(table.column(field.name), field.type)


def _cast(cells: Any, to: pa.DataType) -> Any:
    if pa.types.is_timestamp(to):
        return _moments(cells).cast(to)
    if pa.types.is_string(cells.type) and not pa.types.is_string(to):
        cells = pc.if_else(pc.equal(cells, ""), None, cells)
    elif pa.types.is_floating(cells.type) and pa.types.is_integer(to):
        cells = pc.if_else(pc.fill_null(_is_whole(cells), False), cells, None)
    return cells.cast(to)


def _moments(seconds: Any) -> Any:
    """Microseconds since the epoch; null where a clock gone mad says what is no date."""
    usable = pc.and_(pc.is_finite(seconds), pc.less(pc.abs(seconds), 1e11))
    return pc.round(pc.multiply(pc.if_else(pc.fill_null(usable, False), seconds, None), 1e6)).cast(pa.int64())


def _is_whole(numbers: Any) -> Any:
    return pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less_equal(pc.abs(numbers), float(_EXACT_IN_DOUBLE)))
