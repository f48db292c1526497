"""JSON lines: one object per row; numbers as numbers, empty fields as null."""

from __future__ import annotations

import json
import re
from typing import BinaryIO

from streaming.read.export.rows import RunRows

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def write(rows: RunRows, out: BinaryIO) -> None:
    """All rows, each with the columns of its own header."""
    out.writelines(map(line, rows.records()))


def line(record: dict[str, str]) -> bytes:
    """One row."""
    fields = {name: value(text) for name, text in record.items()}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def value(text: str) -> int | float | str | None:
    """A field as JSON has it. What JSON has no number for (NaN, 007) stays text."""
    if text == "":
        return None
    found = _NUMBER.fullmatch(text)
    if found is None or len(text) > 300:
        return text
    return float(text) if found[1] or found[2] else int(text)
