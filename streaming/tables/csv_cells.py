"""CSV rows as cells, by the one rule for line ends: a line feed ends a line.

A carriage return before it belongs to the end, any other one to a cell. So no text has more rows than line feeds.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

_BARE_RETURN = re.compile("\r(?!\n)")
_STAND_IN = "\udc0d"  # which no decoded text holds


def lines_of(text: str) -> Iterator[str]:
    """Each line with its end."""
    return iter(io.StringIO(text, newline="\n"))


def rows_of(lines: Iterable[str]) -> Iterator[list[str]]:
    """Each row as its cells. `csv` itself refuses a carriage return in a cell without quotes. Raises csv.Error."""
    for row in csv.reader(_BARE_RETURN.sub(_STAND_IN, line) for line in lines):
        yield [cell.replace(_STAND_IN, "\r") for cell in row]
