"""SQLite's file format read without SQLite: as SQLite itself reads it, and never more than an Unreadable for garbage."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool.recovery import sqlite_pages
from spool.recovery.sqlite_pages import PageFile, Unreadable


def encoded_varint(value: int) -> bytes:
    """As SQLite writes it, for values below 2 ** 56."""
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append((value & 0x7F) | 0x80)
    return bytes(reversed(parts))


@given(st.integers(0, (1 << 56) - 1), st.binary(max_size=9))
def test_varint_is_read_as_written(value: int, behind: bytes) -> None:
    raw = encoded_varint(value)
    assert sqlite_pages.varint(raw + behind, 0) == (value, len(raw))


def test_varint_of_nine_bytes_may_be_negative() -> None:
    assert sqlite_pages.varint(b"\xff" * 9, 0) == (-1, 9)


NUMBERS = [0, 1, -1, 127, -32768, 1 << 23, -(1 << 31), 1 << 40, -(1 << 62), 0.5, -1e300]
VALUES = [None, *NUMBERS, "", "text", "ü\0", b"", b"\0\xff"]


@pytest.mark.parametrize("size", [10, 4000, 4061, 4062, 5000, 100_000])
def test_rows_are_read_as_sqlite_reads_them(tmp_path: Path, size: int) -> None:
    path = tmp_path / "any.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value, filling BLOB)")
        connection.executemany(
            "INSERT INTO t (value, filling) VALUES (?, ?)", [(value, b"x" * size) for value in VALUES]
        )
        wanted = [(row[0], [None, *row[1:]]) for row in connection.execute("SELECT * FROM t")]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = PageFile(descriptor, 4096)
        found = [
            sqlite_pages.table_cell(file, page, at)
            for number, page in file.leaves(sqlite_pages.TABLE_LEAF)
            if number > 1
            for at in sqlite_pages.cell_offsets(page, number=number)
        ]
        assert sorted((row_id, sqlite_pages.record(payload)) for row_id, payload in found) == wanted
    finally:
        os.close(descriptor)


@given(st.binary(max_size=300))
def test_garbage_is_unreadable_and_nothing_worse(garbage: bytes) -> None:
    try:
        values = sqlite_pages.record(garbage)
    except Unreadable:
        return
    assert isinstance(values, list)


@given(st.binary(min_size=1, max_size=200).map(lambda raw: (raw * 4096)[:4096]))
def test_garbage_pages_give_cells_or_nothing(page: bytes) -> None:
    descriptor = os.memfd_create("page") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDONLY)
    try:
        if hasattr(os, "memfd_create"):
            os.pwrite(descriptor, page, 0)
        file = PageFile(descriptor, 4096)
        for at in sqlite_pages.cell_offsets(page):
            for read in (sqlite_pages.table_cell, sqlite_pages.index_cell):
                try:
                    read(file, page, at)
                except Unreadable:
                    continue
    finally:
        os.close(descriptor)


def test_chain_of_overflow_pages_that_bites_its_tail_ends(tmp_path: Path) -> None:
    path = tmp_path / "loop"
    path.write_bytes((1).to_bytes(4, "big") + b"x" * 4092)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert len(PageFile(descriptor, 4096).follow(1, 100_000)) == 100_000
        with pytest.raises(Unreadable):
            PageFile(descriptor, 4096).follow(2, 10)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("types", "shape", "fits"),
    [
        ([0, 1, 13], "0it", True),
        ([0, 0, 13], "0it", False),
        ([0, 0, 13], "0It", True),
        ([0, 7, 12], "0rb", True),
        ([0, 1, 12], "0rb", True),
        ([0, 10, 12], "0ib", False),
        ([0, 1], "0it", False),
        ([1, 1, 13], "0it", False),
    ],
)
def test_rows_are_recognised_by_their_shape(types: list[int], shape: str, fits: bool) -> None:
    assert sqlite_pages.is_record_of(types, shape) is fits
