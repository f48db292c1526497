"""How rows are written as Parquet, wherever they are: zstd, checksums of the pages, row groups of a useful size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import parquet

ROW_GROUP_ROWS = 100_000


def write(out: Any, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables as they come, and hold one row group of them. A column that a table lacks is null. How many rows."""
    row_count = 0
    with parquet.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(tables):
            writer.write_table(pa.concat_tables([schema.empty_table(), *group], promote_options="default"))
            row_count += sum(table.num_rows for table in group)
    return row_count


def write_reader(out: Any, reader: pa.RecordBatchReader) -> int:
    """The same of what a reader gives."""
    return write(out, reader.schema, (pa.Table.from_batches([batch]) for batch in reader))


def _groups(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    group: list[pa.Table] = []
    row_count = 0
    for table in tables:
        group.append(table)
        row_count += table.num_rows
        if row_count >= ROW_GROUP_ROWS:
            yield group
            group, row_count = [], 0
    if group:
        yield group
