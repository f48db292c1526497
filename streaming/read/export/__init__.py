"""The formats that a run can be exported in, loaded when they are asked for.

A format is a function `(rows: RunRows, out: BinaryIO) -> None` that takes the rows as they come and holds few of them
at a time. A new one needs a line here and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from streaming.read.export.rows import RunRows, fields_under
from streaming.read.export.text import json_line

Write = Callable[[RunRows, BinaryIO], None]

# Name: the function that writes it, and whether it may go to a terminal.
FORMATS = {
    "csv": ("streaming.read.export.text:write_csv", True),
    "jsonl": ("streaming.read.export.text:write_json_lines", True),
    "parquet": ("streaming.read.export.parquet:write", False),
    "html": ("streaming.read.export.html:write", False),
}

# What can be written row by row while the run goes on.
FOLLOWED = ("csv", "jsonl")


def followed(rows: RunRows, name: str) -> Iterator[bytes]:
    """The run in this format as its rows come. A header that changes is written again, before its rows."""
    current = None
    for header, lines in rows.following():
        if name == "jsonl":
            yield b"".join(map(json_line, fields_under(header, lines)))
        else:
            yield lines if header == current else header + lines
        current = header


def writer(name: str) -> Write:
    """The function that writes this format. Raises BadArgument if something it needs is not installed."""
    module, _, function = FORMATS[name][0].partition(":")
    write: Write = getattr(importlib.import_module(module), function)
    return write


def is_text(name: str) -> bool:
    """Whether people can read it, so that it may go to a terminal."""
    return FORMATS[name][1]
