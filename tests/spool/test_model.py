"""The values: batches know their rows and checksum, times leave as ISO-8601."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool import Batch
from spool.model import Doubt, iso_utc

HEADER = b"timestamp,x\n"


@given(st.binary(), st.binary())
def test_checksum_is_over_header_and_rows(header: bytes, rows: bytes) -> None:
    assert Batch(header, rows).sha256 == hashlib.sha256(header + rows).digest()


@pytest.mark.parametrize(("rows", "count"), [(b"", 0), (b"1\n", 1), (b"1\r\n\x00\n", 2), (b"\n\n\n", 3)])
def test_a_row_is_what_ends_with_a_newline(rows: bytes, count: int) -> None:
    assert Batch(HEADER, rows).row_count == count


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1764042460.125, "2025-11-25T03:47:40.125Z"),
        (1.9996, "1970-01-01T00:00:01.999Z"),
    ],
)
def test_times_leave_as_utc_with_milliseconds(at: float, text: str) -> None:
    assert iso_utc(at) == text


rows = st.lists(st.binary(max_size=8).map(lambda raw: raw.replace(b"\n", b"") + b"\n"), max_size=6).map(b"".join)


@given(rows, rows)
def test_doubtful_rows_that_come_again_with_more_behind_them_are_not_repeated(doubtful: bytes, more: bytes) -> None:
    doubt = Doubt((Batch(HEADER, doubtful),), 1)
    rest = doubt.without_repetition([Batch(HEADER, doubtful + more)])
    assert b"".join(batch.rows for batch in rest) == more


@given(rows.filter(bool))
def test_other_rows_than_the_doubtful_ones_are_all_appended(doubtful: bytes) -> None:
    others = [Batch(HEADER, b"others" + doubtful)]
    assert Doubt((Batch(HEADER, doubtful),), 1).without_repetition(others) == others
    under_another_header = [Batch(b"timestamp,y\n", doubtful)]
    assert Doubt((Batch(HEADER, doubtful),), 1).without_repetition(under_another_header) == under_another_header
