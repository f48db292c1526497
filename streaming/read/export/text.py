"""CSV and JSON lines: the formats that people read, and that can be written while the run goes on."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import BinaryIO

from streaming.read.export.rows import RunRows

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def write_csv(rows: RunRows, out: BinaryIO) -> None:
    """All rows under one header line. With a single header they are the very bytes that were recorded; where the
    header changed within the run, it is the union of all columns, with empty fields."""
    headers = rows.headers()
    if len(headers) <= 1:
        out.writelines(headers)
        out.writelines(lines for _, lines in rows.batches())
        return
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    table = csv.DictWriter(text, rows.columns(), restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows.records())
    text.detach()


def write_json_lines(rows: RunRows, out: BinaryIO) -> None:
    """One object per row, with the columns of its own header; numbers as numbers, empty fields as null."""
    out.writelines(map(json_line, rows.records()))


def json_line(record: dict[str, str]) -> bytes:
    """One row."""
    fields = {name: json_value(text) for name, text in record.items()}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def json_value(text: str) -> int | float | str | None:
    """A field as JSON has it. What JSON has no number for (NaN, 007) stays text."""
    if text == "":
        return None
    found = _NUMBER.fullmatch(text)
    if found is None or len(text) > 300:
        return text
    return float(text) if found[1] or found[2] else int(text)
