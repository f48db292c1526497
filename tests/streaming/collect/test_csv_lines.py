"""Fault 31, as properties over bytes: what comes out is what went in, whatever the lines hold and wherever they are cut."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool import Batch
from streaming.collect.csv_lines import LineSplitter, first_field

HEADER = b"timestamp,cpu\n"
OTHER = b"timestamp,cpu,gpu\n"
# Anything but a line end, and nothing that begins as a header does.
cells = (
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")).filter(lambda raw: first_field(raw) != b"timestamp")
)
lines = st.one_of(
    cells.map(lambda raw: raw + b"\n"),
    st.sampled_from(
        [HEADER, OTHER, b"\x00\r\x00\n", b"\n", b'"timest\n', b"timestamped,1\n", b"1,2,3,4,5\n", b"\xff\xfe\n"]
    ),
)
files = st.lists(lines, max_size=25).map(lambda some: HEADER + b"".join(some))


def expected(csv: bytes) -> list[tuple[bytes, bytes]]:
    """The same, said simply: every line that is no header, with the header above it."""
    header, found = b"", []
    for line in csv.split(b"\n")[:-1]:
        if not header or first_field(line + b"\n") == first_field(header):
            header = line + b"\n"
        else:
            found.append((header, line + b"\n"))
    return found


def rows_of(batches: list[Batch]) -> list[tuple[bytes, bytes]]:
    return [(batch.header, row + b"\n") for batch in batches for row in batch.rows.split(b"\n")[:-1]]


@given(files)
def test_rows_and_their_headers_are_those_of_the_file(csv: bytes) -> None:
    batches, end = LineSplitter().split(csv)
    assert end == len(csv)
    assert rows_of(batches) == expected(csv)


@given(files, st.lists(st.integers(0, 900), max_size=12))
def test_wherever_the_file_is_cut_the_same_rows_come_out(csv: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter()
    batches: list[Batch] = []
    offset = 0
    for cut in [*sorted(cuts), len(csv)]:
        taken, end = splitter.split(csv[offset : max(offset, min(cut, len(csv)))])
        batches += taken
        offset += end
    assert offset == len(csv)
    assert rows_of(batches) == expected(csv)


@given(files, st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\n", b"")))
def test_unfinished_line_waits_for_its_end(csv: bytes, unfinished: bytes) -> None:
    splitter = LineSplitter()
    batches, end = splitter.split(csv + unfinished)
    assert end == len(csv)
    assert rows_of(batches) == expected(csv)


@given(files)
def test_every_byte_is_a_row_or_a_header(csv: bytes) -> None:
    batches, _ = LineSplitter().split(csv)
    kept = sum(len(batch.rows) for batch in batches)
    headers = sum(len(line) + 1 for line in csv.split(b"\n")[:-1] if first_field(line + b"\n") == b"timestamp")
    assert kept + headers == len(csv)


def test_changed_header_begins_a_new_batch() -> None:
    batches, _ = LineSplitter().split(HEADER + b"1,2\n" + OTHER + b"3,4,5\n")
    assert batches == [Batch(HEADER, b"1,2\n"), Batch(OTHER, b"3,4,5\n")]


def test_repeated_header_is_no_row() -> None:
    batches, _ = LineSplitter().split(HEADER + b"1,2\n" + HEADER + b"3,4\n")
    assert b"".join(batch.rows for batch in batches) == b"1,2\n3,4\n"
    assert {batch.header for batch in batches} == {HEADER}


def test_quoted_and_plain_header_are_both_recognised() -> None:
    batches, _ = LineSplitter().split(b'"timestamp","cpu"\n1,2\ntimestamp,cpu\n3,4\n"timestamp","cpu"\n5,6\n')
    assert [batch.rows for batch in batches] == [b"1,2\n", b"3,4\n", b"5,6\n"]


def test_row_of_ten_megabytes_passes_whole() -> None:
    row = b"1," + b"x" * 10_000_000 + b"\n"
    batches, end = LineSplitter().split(HEADER + row)
    assert (batches, end) == ([Batch(HEADER, row)], len(HEADER) + len(row))


def test_byte_order_mark_is_not_part_of_the_header() -> None:
    splitter = LineSplitter()
    splitter.split(b"\xef\xbb\xbf" + HEADER)
    assert splitter.header == HEADER


@pytest.mark.parametrize("csv", [b"", b"timestamp", b"timestamp,cpu"])
def test_nothing_comes_of_a_file_without_a_whole_line(csv: bytes) -> None:
    splitter = LineSplitter()
    assert splitter.split(csv) == ([], 0)
    assert splitter.header is None


def test_header_of_numbers_is_never_recognised_again() -> None:
    batches, _ = LineSplitter().split(b"1,2\n1,3\n1,4\n")
    assert batches == [Batch(b"1,2\n", b"1,3\n1,4\n")]


def test_empty_lines_before_the_header_are_none() -> None:
    splitter = LineSplitter()
    assert splitter.split(b"\n\r\n") == ([], 3)
    batches, end = splitter.split(b"\na,b\n1,2\n")
    assert (batches, end, splitter.rows_end) == ([Batch(b"a,b\n", b"1,2\n")], 9, 9)


def test_rows_that_begin_like_the_header_cost_time_in_proportion() -> None:
    """Quadratic, 10 MB took minutes; the limit is far above what a busy machine needs."""
    rows = b"".join(b"host%06d,1\n" % number for number in range(500_000))
    began_s = time.process_time()
    batches, end = LineSplitter().split(b"host,cpu\n" + rows)
    assert time.process_time() - began_s < 10
    assert (batches, end) == ([Batch(b"host,cpu\n", rows)], len(rows) + 9)
