"""Parquet: typed as `streaming.tables.schema` says, written in row groups. Memory stays flat."""

from __future__ import annotations

from typing import BinaryIO

from streaming.errors import BadArgument
from streaming.read.export.rows import RunRows

try:
    from streaming.read import typed_rows
    from streaming.tables import parquet_file
except ImportError as missing:
    raise BadArgument("Parquet needs pyarrow", hint="pip install 'tracker-stream[read]'") from missing


def write(rows: RunRows, out: BinaryIO) -> None:
    """All rows. Columns are typed by all their cells, in a pass before: text stays text, also in a known column."""
    schema = typed_rows.schema_of(rows, keeps_words=True)
    parquet_file.write(out, schema, typed_rows.tables_of(rows, schema))
