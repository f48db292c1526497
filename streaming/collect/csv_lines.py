"""From CSV bytes to batches: whole lines only, headers recognised, bytes kept as they came. Pure.

A run's first line is its header. A later line whose first field is the name of the header's first column is a header
again: the same one is dropped (it is no row), another one begins a new header. A line without its end waits for it.
"""

from __future__ import annotations

from spool import Batch

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


class LineSplitter:
    """Turns consecutive pieces of one CSV into batches. Remembers the header that is in force."""

    def __init__(self, header: bytes | None = None) -> None:
        self.header = header
        self.rows_end = 0  # where in the last piece its last row ended; behind it are header lines only

    def split(self, csv: bytes) -> tuple[list[Batch], int]:
        """Batches of all whole lines in `csv`, and how many bytes those are. The header line itself is no row."""
        end = csv.rfind(b"\n") + 1
        whole = csv[:end]
        batches: list[Batch] = []
        self.rows_end = 0
        if self.header is None:
            whole = whole.lstrip(b"\r\n")  # empty lines before the header are none
        if whole and self.header is None:
            first, newline, whole = whole.partition(b"\n")
            self.header = first.removeprefix(BYTE_ORDER_MARK) + newline
        begin, start = end - len(whole), 0
        for position in self._header_positions(whole):
            self._collect(batches, whole[start:position], begin + position)
            line_end = whole.index(b"\n", position) + 1
            self.header = whole[position:line_end]
            start = line_end
        self._collect(batches, whole[start:], end)
        return batches, end

    def _collect(self, batches: list[Batch], rows: bytes, rows_end: int) -> None:
        if rows and self.header is not None:
            batches.append(Batch(self.header, rows))
            self.rows_end = rows_end

    def _header_positions(self, whole: bytes) -> list[int]:
        """Where lines begin that are headers: found by searching for the first column's name, not line by line."""
        if self.header is None:
            return []
        name = first_field(self.header)
        if not any(byte in _LETTERS for byte in name):
            return []  # a first line of numbers is no name that could be recognised again
        positions = []
        for spelling in {name, b'"' + name + b'"'}:
            positions += _line_starts(whole, spelling)
        return sorted(position for position in positions if first_field(whole, position) == name)


def first_field(csv: bytes, position: int = 0) -> bytes:
    """The name in the first column of the line that begins at `position`, without quotes."""
    line_end = csv.find(b"\n", position)
    end = csv.find(b",", position, line_end if line_end >= 0 else len(csv))
    return csv[position : end if end >= 0 else line_end if line_end >= 0 else len(csv)].strip().strip(b'"')


def _line_starts(whole: bytes, prefix: bytes) -> list[int]:
    """Positions at which a line begins with `prefix`."""
    starts = [0] if prefix and whole.startswith(prefix) else []
    position = whole.find(b"\n" + prefix) if prefix else -1
    while position >= 0:
        if position + 1 < len(whole):
            starts.append(position + 1)
        position = whole.find(b"\n" + prefix, position + 1)
    return starts
