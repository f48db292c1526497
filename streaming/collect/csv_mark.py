"""How a CSV file is recognised as the one that was read before, at the cost of two short reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

MARK_BYTES = 256


@dataclass(frozen=True)
class CsvMark:
    """The first bytes of what was taken from a file, and the last ones.

    Not its inode: a file that is written anew under another name and moved into place (`os.replace`), with the former
    rows and more, is still the same to a reader of rows.
    """

    head: bytes = b""
    tail: bytes = b""

    def beyond(self, taken: bytes) -> CsvMark:
        """The mark once these bytes were taken too."""
        head = self.head if len(self.head) == MARK_BYTES else self.head + taken[: MARK_BYTES - len(self.head)]
        return CsvMark(head, (self.tail + taken[-MARK_BYTES:])[-MARK_BYTES:])

    def begins(self, file: BinaryIO) -> bool:
        """Whether a file that is shorter than what was taken may become the same one again: nothing in it differs."""
        file.seek(0)
        return self.head.startswith(file.read(len(self.head)))


def mark_of(file: BinaryIO, offset: int) -> CsvMark:
    """The mark of a file from which so many bytes were taken."""
    file.seek(0)
    head = file.read(min(offset, MARK_BYTES))
    return CsvMark(head, bytes_before(file, offset))


def bytes_before(file: BinaryIO, offset: int, count: int = MARK_BYTES) -> bytes:
    """Up to `count` bytes in front of an offset."""
    file.seek(max(0, offset - count))
    return file.read(min(offset, count))


def ends_with_rows(file: BinaryIO, offset: int, rows: bytes) -> bool:
    """Whether these rows end at the offset; the end of the last line may be missing in the file (it was added)."""
    end = rows[-MARK_BYTES:]
    before = bytes_before(file, offset, len(end))
    return before.endswith((end, end[:-1]))
