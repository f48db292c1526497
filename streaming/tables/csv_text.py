"""CSV text as columns: known ones as numbers, others as text; and each row's own bytes.

Arrow parses. What it refuses (ragged lines, words among numbers) is read cell by cell: a row with too few cells lacks the
last ones, surplus cells are left out, and so is what follows a line that cannot be read as CSV at all.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from streaming.tables.csv_cells import lines_of, rows_of
from streaming.tables.schema import KNOWN

_NO_NUMBER = ["", "NA", "NaN", "nan", "None", "null", "N/A"]
_BARE_RETURN = re.compile(rb"\r(?!\n)")
_ANY_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Parsed:
    """Rows below one header. `lines` holds each row as it was written, with its line end."""

    header: tuple[str, ...]
    table: pa.Table
    lines: pa.Array


def parse(header: bytes, body: bytes) -> Parsed:
    """The rows of `body` (whole lines, without the header line). Never raises for what the text may be."""
    names = column_names(header)
    body = whole_lines(body)
    try:
        table, lines = _parse_at_once(names, body, names), _lines(body)
        if len(lines) == table.num_rows:
            return Parsed(names, table, lines)
    except (pa.ArrowException, ValueError):
        pass
    return Parsed(names, *_parse_row_by_row(names, body.decode("utf-8", "replace")))


def parse_columns(
    header: bytes, body: bytes, only: Collection[str] | None = None, *, as_text: Collection[str] = ()
) -> pa.Table:
    """The same without the lines; and without the columns that are not among `only`, where it is given.

    The columns `as_text` are text, also known ones.
    """
    names = column_names(header)
    wanted = tuple(name for name in names if only is None or name in only)
    try:
        return _parse_at_once(names, whole_lines(body), wanted, as_text)
    except (pa.ArrowException, ValueError):
        return _parse_row_by_row(names, body.decode("utf-8", "replace"), as_text)[0].select(wanted)


def known_with_words(header: bytes, body: bytes) -> set[str]:
    """The known columns of which some cell is neither a number nor a word for none."""
    names = column_names(header)
    known = tuple(name for name in names if name in KNOWN)
    try:
        _parse_at_once(names, whole_lines(body), known)
        return set()
    except (pa.ArrowException, ValueError):
        table = _parse_row_by_row(names, body.decode("utf-8", "replace"), known)[0]
        return {name for name in known if _has_words(table.column(name))}


def _has_words(cells: Any) -> bool:
    is_none = pc.is_in(cells, pa.array(_NO_NUMBER))
    is_number = pc.match_substring_regex(pc.utf8_trim_whitespace(cells), _ANY_NUMBER)
    return not pc.all(pc.fill_null(pc.or_(is_none, is_number), True)).as_py()


def split_header(text: bytes) -> tuple[bytes, bytes]:
    """The header line (the first that is not empty; a name may hold line ends) and all that follows."""
    header, _, body = text.lstrip(b"\r\n").partition(b"\n")
    while header.count(b'"') % 2 and body:
        more, _, body = body.partition(b"\n")
        header += b"\n" + more
    return header, body


def column_names(header: bytes) -> tuple[str, ...]:
    """The names in a header line; a name that is empty or was there before gets one by its place."""
    cells = next(rows_of(lines_of(header.decode("utf-8", "replace").rstrip("\r\n"))), [])
    names: dict[str, None] = {}
    for place, cell in enumerate(cells, 1):
        names[cell if cell and cell not in names else f"column_{place}"] = None
    return tuple(names)


def whole_lines(text: bytes) -> bytes:
    """The text with an end to its last line."""
    return text if text.endswith(b"\n") or not text else text + b"\n"


def _parse_at_once(
    names: tuple[str, ...], body: bytes, wanted: tuple[str, ...], as_text: Collection[str] = ()
) -> pa.Table:
    types = {name: pa.float64() if name in KNOWN and name not in as_text else pa.string() for name in wanted}
    if not body:
        return pa.table({name: pa.nulls(0, kind) for name, kind in types.items()})
    if _BARE_RETURN.search(body):
        raise ValueError("for Arrow a carriage return ends a line")
    return arrow_csv.read_csv(
        pa.py_buffer(body),
        read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(body) + 1),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=wanted or names[:1],
            null_values=_NO_NUMBER,
            strings_can_be_null=False,
        ),
    ).select(wanted)


def _lines(body: bytes) -> pa.Array:
    """Each line as a value, without copying the text. There are as many as rows unless a cell holds a line end."""
    if b"\n\n" in body or b"\n\r\n" in body or body[:1] in (b"\n", b"\r"):
        raise ValueError("there are empty lines")
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(body)])


def _parse_row_by_row(names: tuple[str, ...], text: str, as_text: Collection[str] = ()) -> tuple[pa.Table, pa.Array]:
    cells: list[list[str | None]] = [[] for _ in names]
    lines: list[bytes] = []
    for row, line in _rows(text):
        lines.append(line.encode("utf-8", "replace"))
        for place, column in enumerate(cells):
            column.append(row[place] if place < len(row) else None)
    arrays = {name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)}
    columns = {
        name: numbers_among(array) if name in KNOWN and name not in as_text else array for name, array in arrays.items()
    }
    return pa.table(columns), pa.array(lines, pa.binary())


def _rows(text: str) -> Iterator[tuple[list[str], str]]:
    """Each row as cells and as written, up to the first that csv cannot read."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in lines_of(text):
            taken.append(line)
            yield line

    try:
        for row in rows_of(lines()):
            if row:
                yield row, "".join(taken)
            taken.clear()
    except csv.Error:
        return


def numbers_among(cells: Any) -> Any:
    """The cells that are numbers, as numbers; null for the others."""
    trimmed = pc.utf8_trim_whitespace(cells)
    usable = pc.fill_null(pc.match_substring_regex(trimmed, _ANY_NUMBER), False)
    return pc.if_else(usable, pc.utf8_ltrim(trimmed, "+"), None).cast(pa.float64())
