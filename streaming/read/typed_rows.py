"""The rows of a spool as typed Arrow tables, some megabytes of CSV at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from streaming.read.export.rows import RunRows
from streaming.tables.csv_text import column_names, known_with_words, parse_columns
from streaming.tables.schema import KNOWN, Kinds, typed

_CHUNK_BYTES = 1 << 19
_CHUNKS_AHEAD = 4


def schema_of(rows: RunRows, *, keeps_words: bool = False) -> pa.Schema:
    """The columns of all headers of the run with their types; reads the rows only where a column is not a known one.

    With `keeps_words` it always does, and a known column is text where a cell of it is no number.
    """
    kinds = Kinds()
    names = [name for header in rows.headers() for name in column_names(header)]
    kinds.learn(pa.table({name: pa.nulls(0, pa.string()) for name in dict.fromkeys(names)}))
    unknown = {name for name in names if name not in KNOWN}
    words: set[str] = set()
    for header, text in chunks(rows.batches()) if unknown or keeps_words else ():
        kinds.learn(parse_columns(header, text, unknown))
        words |= known_with_words(header, text) if keeps_words else set()
    return pa.schema([pa.field(it.name, pa.string()) if it.name in words else it for it in kinds.schema])


def tables_of(rows: RunRows, schema: pa.Schema) -> Iterator[pa.Table]:
    """All rows in order, in the columns of `schema`. A thread parses what was read while this one reads on."""

    as_text = {field.name for field in schema if pa.types.is_string(field.type)}

    def parsed(chunk: tuple[bytes, bytes]) -> pa.Table:
        return typed(parse_columns(*chunk, schema.names, as_text=as_text), schema)

    with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
        waiting: deque[Future[pa.Table]] = deque()
        for chunk in chunks(rows.batches()):
            waiting.append(pool.submit(parsed, chunk))
            if len(waiting) > _CHUNKS_AHEAD:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def chunks(batches: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Neighbouring batches with one header put together: a batch may be a single row."""
    parts: list[bytes] = []
    size, current = 0, b""
    for header, lines in batches:
        if parts and (header != current or size >= _CHUNK_BYTES):
            yield current, b"".join(parts)
            parts, size = [], 0
        current = header
        parts.append(lines)
        size += len(lines)
    if parts:
        yield current, b"".join(parts)
