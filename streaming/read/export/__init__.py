"""The formats that a run can be exported in: one file each, loaded when it is asked for.

A format is a function `write(rows: RunRows, out: BinaryIO) -> None` that takes the rows as they come and holds few of them
at a time. A new one needs a line here and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import BinaryIO

from streaming.read.export.rows import RunRows

Write = Callable[[RunRows, BinaryIO], None]

# Name: the module whose `write` it is, and whether it may go to a terminal.
FORMATS = {
    "csv": ("streaming.read.export.csv_lines", True),
    "jsonl": ("streaming.read.export.json_lines", True),
    "parquet": ("streaming.read.export.parquet", False),
    "html": ("streaming.read.export.html", False),
}


def writer(name: str) -> Write:
    """The function that writes this format. Raises BadArgument if something it needs is not installed."""
    write: Write = importlib.import_module(FORMATS[name][0]).write
    return write


def is_text(name: str) -> bool:
    """Whether people can read it, so that it may go to a terminal."""
    return FORMATS[name][1]
