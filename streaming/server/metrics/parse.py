"""Objects of a run as columns of numbers, beside each row as it was written.

A cell that is no finite number is NaN. A column without any number has no column of its own: its text is in the lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.server.gunzip import NotGzip, TooLarge, gunzip
from streaming.tables.csv_text import Parsed, numbers_among, parse, split_header, whole_lines
from streaming.tables.figures import extent_of
from streaming.tables.schema import TIMESTAMP

MAX_PLAIN_BYTES = 128 * 2**20
MAX_ROWS = 1_000_000  # of one object
MAX_COLUMNS = 1000
MAX_HEADER_BYTES = 2**16
LINE = "(line)"  # no column of a CSV is called so: those are `names`


@dataclass(frozen=True)
class ObjectFacts:
    """What is known of one object. With an `error` it has no rows. `first`, `last`: of its timestamps.

    `is_stray`: it lies below the run's prefix, yet its finish does not name it: its rows are not the run's.
    """

    key: str
    etag: str
    size_bytes: int
    uploaded_at: float
    sha256: str = ""
    header: str = ""
    row_count: int = 0
    first: float | None = None
    last: float | None = None
    error: str | None = None
    is_stray: bool = False

    @property
    def kept_row_count(self) -> int:
        return 0 if self.is_stray else self.row_count


def parse_objects(found: Sequence[tuple[ObjectFacts, bytes]]) -> tuple[list[ObjectFacts], pa.Table]:
    """Facts and rows of gzip CSV objects, in order; what cannot be read becomes an `error`, never an exception."""
    plain = [_plain(facts, content) for facts, content in found]
    return parse_texts(plain)


def parse_texts(found: Sequence[tuple[ObjectFacts, bytes]]) -> tuple[list[ObjectFacts], pa.Table]:
    """The same of plain CSV texts. Neighbours with one header are parsed together: most of the time goes per call."""
    split = [_within_limits(facts, *split_header(text)) for facts, text in found]
    described: list[ObjectFacts] = []
    tables: list[pa.Table] = []
    for header, group in groupby(split, key=lambda item: item[1]):
        for facts, table in _parse_group(header, [(facts, whole_lines(body)) for facts, _, body in group]):
            described.append(facts)
            tables.append(table)
    return described, joined(tables)


def _within_limits(facts: ObjectFacts, header: bytes, body: bytes) -> tuple[ObjectFacts, bytes, bytes]:
    """As it is, or as an error without rows: counted before anything is parsed."""
    if len(header) > MAX_HEADER_BYTES or header.count(b",") >= MAX_COLUMNS:
        return replace(facts, error=f"more than {MAX_COLUMNS} columns"), b"", b""
    if body.count(b"\n") > MAX_ROWS:
        return replace(facts, error=f"more than {MAX_ROWS} rows"), b"", b""
    return facts, header, body


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows, with the columns of all; null where a table lacks one."""
    if not tables:
        return pa.table({LINE: pa.array([], pa.binary())})
    return pa.concat_tables(tables, promote_options="default")


def _plain(facts: ObjectFacts, content: bytes) -> tuple[ObjectFacts, bytes]:
    try:
        text = gunzip(content, limit=MAX_PLAIN_BYTES)
        return replace(facts, sha256=hashlib.sha256(text).hexdigest()), text
    except (NotGzip, TooLarge) as exc:
        return replace(facts, error=str(exc)), b""


def _parse_group(header: bytes, found: Sequence[tuple[ObjectFacts, bytes]]) -> Iterator[tuple[ObjectFacts, pa.Table]]:
    counts = [body.count(b"\n") for _, body in found]
    parsed = parse(header, b"".join(body for _, body in found))
    if len(found) > 1 and parsed.table.num_rows != sum(counts):  # whose rows are which cannot be told by counting lines
        for one in found:
            yield from _parse_group(header, [one])
        return
    numbers = _numbers(parsed)
    ends = [numbers.num_rows] if len(found) == 1 else list(accumulate(counts))
    for (facts, _), start, end in zip(found, [0, *ends], ends, strict=False):
        yield _described(facts, header, numbers.slice(start, end - start))


def _described(facts: ObjectFacts, header: bytes, table: pa.Table) -> tuple[ObjectFacts, pa.Table]:
    first, last = None, None
    if TIMESTAMP in table.column_names:
        times = table.column(TIMESTAMP).to_numpy()
        first, last = extent_of(times[np.isfinite(times)])
    text = header.decode("utf-8", "replace")
    return replace(facts, header=text, row_count=table.num_rows, first=first, last=last), table


def _numbers(parsed: Parsed) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in parsed.table.column_names:
        cells = parsed.table.column(name)
        numbers = numbers_among(cells) if pa.types.is_string(cells.type) else cells
        finite = pc.if_else(pc.fill_null(pc.is_finite(numbers), False), numbers, None)
        if pa.types.is_floating(cells.type) or finite.null_count < len(finite):
            columns[name] = finite
    return pa.table({**columns, LINE: parsed.lines})
