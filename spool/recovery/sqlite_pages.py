"""Reading SQLite's file format without SQLite: the rows that damaged pages around them leave readable. Pure.

Source: https://www.sqlite.org/fileformat2.html (b-tree pages, varints, record format, overflow pages, rollback journal).
Only what a spool uses: pages of one size without reserved bytes, table leaves and index leaves. Nothing here trusts a
number from the file: whatever does not fit is `Unreadable`, and costs one cell or one page.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

TABLE_LEAF = 0x0D
INDEX_LEAF = 0x0A
_FILE_HEADER_BYTES = 100
_JOURNAL_SECTOR_BYTES = (512, 4096)
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
PAYLOAD_MAX_BYTES = 256 << 20

Value = int | float | str | bytes | None


class Unreadable(ValueError):
    """These bytes are not what the file format asks for."""


class PageFile:
    """The pages of a database file, by number from 1."""

    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self._descriptor = descriptor
        self.page_bytes = page_bytes
        self.page_count = os.fstat(descriptor).st_size // page_bytes

    def page(self, number: int) -> bytes:
        if not 1 <= number <= self.page_count:
            raise Unreadable(f"there is no page {number}")
        return os.pread(self._descriptor, self.page_bytes, (number - 1) * self.page_bytes)

    def leaves(self, kind: int) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of every page that looks like a leaf of this kind, in use or not.

        Holes are passed over: a file of terabytes that are none would be read for hours.
        """
        last = 0
        for begin, end in _written(self._descriptor):
            first, last = max(last, begin // self.page_bytes) + 1, min(self.page_count, -(-end // self.page_bytes))
            for number in range(first, last + 1):
                page = self.page(number)
                if page[_header_at(number)] == kind:
                    yield number, page

    def follow(self, first: int, size: int) -> bytes:
        """`size` bytes of an overflow chain."""
        content = bytearray()
        number = first
        while len(content) < size:
            page = self.page(number)
            content += page[4:]
            number = int.from_bytes(page[:4], "big")
        return bytes(content[:size])


def _written(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where the file has something: from, to; all of it on a file system that cannot tell."""
    size = os.fstat(descriptor).st_size
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that there is no more
                yield end, size
            return
        yield begin, end


def journal_pages(journal: bytes, page_bytes: int, kind: int) -> Iterator[bytes]:
    """Earlier images of pages that a rollback journal still holds, played back or not."""
    for sector_bytes in _JOURNAL_SECTOR_BYTES:
        for start in range(sector_bytes + 4, len(journal) - page_bytes + 1, page_bytes + 8):
            if journal[start] == kind:
                yield journal[start : start + page_bytes]


def cell_offsets(page: bytes, *, number: int = 0) -> list[int]:
    """Where the cells of a leaf begin, as far as its own numbers are possible."""
    header_at = _header_at(number)
    (count,) = struct.unpack_from(">H", page, header_at + 3)
    end = header_at + 8 + 2 * count
    if end > len(page):
        return []
    offsets = struct.unpack_from(f">{count}H", page, header_at + 8)
    return [offset for offset in offsets if end <= offset < len(page)]


def table_cell(pages: PageFile, page: bytes, at: int) -> tuple[int, bytes]:
    """Row id and payload of a cell of a table leaf. Raises Unreadable."""
    size, at = varint(page, at)
    row_id, at = varint(page, at)
    usable = pages.page_bytes
    return row_id, _payload(pages, page, at, size, largest_local=usable - 35)


def index_cell(pages: PageFile, page: bytes, at: int) -> bytes:
    """Payload of a cell of an index leaf. Raises Unreadable."""
    size, at = varint(page, at)
    return _payload(pages, page, at, size, largest_local=(pages.page_bytes - 12) * 64 // 255 - 23)


def _payload(pages: PageFile, page: bytes, at: int, size: int, *, largest_local: int) -> bytes:
    if not 0 <= size <= PAYLOAD_MAX_BYTES:
        raise Unreadable("a payload of impossible size")
    local = size if size <= largest_local else _local_bytes(size, pages.page_bytes, largest_local)
    content = page[at : at + local]
    if len(content) < local:
        raise Unreadable("a cell beyond the end of its page")
    if local == size:
        return content
    first = page[at + local : at + local + 4]
    return content + pages.follow(int.from_bytes(first, "big"), size - local)


def _local_bytes(size: int, usable: int, largest_local: int) -> int:
    """How much of a payload with overflow pages is in the cell itself."""
    least = (usable - 12) * 32 // 255 - 23
    wanted = least + (size - least) % (usable - 4)
    return wanted if wanted <= largest_local else least


def serial_types(payload: bytes) -> tuple[list[int], int]:
    """The types of a record's columns, and where its content begins. Raises Unreadable."""
    header_bytes, at = varint(payload, 0)
    if header_bytes > len(payload):
        raise Unreadable("a record without its header")
    types = []
    while at < header_bytes:
        serial_type, at = varint(payload, at)
        types.append(serial_type)
    return types, header_bytes


def record(payload: bytes, *, is_strict: bool = True) -> list[Value]:
    """The values of a record. Raises Unreadable, for a damaged text only where `is_strict`."""
    types, at = serial_types(payload)
    values: list[Value] = []
    for serial_type in types:
        size = _content_bytes(serial_type)
        content = payload[at : at + size]
        if len(content) < size:
            raise Unreadable("a record that ends early")
        values.append(_value(serial_type, content, is_strict))
        at += size
    return values


def _content_bytes(serial_type: int) -> int:
    if serial_type >= 12:
        return (serial_type - 12) // 2
    return 8 if serial_type == 7 else _INTEGER_BYTES.get(serial_type, 0)


def _value(serial_type: int, content: bytes, is_strict: bool) -> Value:
    if serial_type == 0:
        return None
    if serial_type in _INTEGER_BYTES:
        return int.from_bytes(content, "big", signed=True)
    if serial_type == 7:
        (number,) = struct.unpack(">d", content)
        return float(number)
    if serial_type in (8, 9):
        return serial_type - 8
    if serial_type < 12:
        raise Unreadable("a reserved type")
    if serial_type % 2 == 0:
        return content
    try:
        return content.decode("utf-8", "strict" if is_strict else "replace")
    except UnicodeDecodeError as error:
        raise Unreadable("a text that is none") from error


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and the offset behind it. Raises Unreadable."""
    value = 0
    for index in range(9):
        if at + index >= len(data):
            raise Unreadable("a number beyond the end")
        byte = data[at + index]
        if index == 8:
            return _signed((value << 8) | byte), at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + index + 1
    raise AssertionError("not reached")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _header_at(number: int) -> int:
    return _FILE_HEADER_BYTES if number == 1 else 0


def is_record_of(types: list[int], shape: str) -> bool:
    """Whether a record's types fit a shape: one letter per column, i(nteger), r(eal), t(ext), b(lob), capital: or NULL."""
    return len(types) == len(shape) and all(map(_fits, types, shape))


def _fits(serial_type: int, letter: str) -> bool:
    if serial_type == 0:
        return letter.isupper() or letter == "0"
    kind = letter.lower()
    if serial_type >= 12:
        return kind == ("b" if serial_type % 2 == 0 else "t")
    if serial_type == 7:
        return kind == "r"
    return kind in "ir" and serial_type not in (10, 11)
