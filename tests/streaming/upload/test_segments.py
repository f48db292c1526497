"""From a segment to its object: the key and the bytes, the same at every repetition."""

import gzip
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool import Segment, SegmentState
from streaming.upload.delivery import SMALL_BYTES, compress, object_key


def segment(seq: int, sha256: str = "0123456789abcdef" * 4) -> Segment:
    return Segment(seq, 1, 1, 1, 1, 10, sha256, SegmentState.SEALED, 0.0, None, None, 0, None)


def zipped(csv: bytes) -> bytes:
    return compress([csv], csv_bytes=len(csv))


def test_key_holds_number_and_content() -> None:
    assert object_key(segment(7)) == "00000007-0123456789ab.csv.gz"
    assert object_key(segment(12_345_678)) == "12345678-0123456789ab.csv.gz"


@given(st.lists(st.integers(1, 99_999_999), min_size=2, unique=True))
def test_keys_sort_by_number(numbers: list[int]) -> None:
    keys = [object_key(segment(number)) for number in sorted(numbers)]
    assert keys == sorted(keys)


@pytest.mark.parametrize("csv", [b"", b"timestamp,x\n1,2\n", b"a\n" * SMALL_BYTES, bytes(range(256)) * 8])
def test_object_is_one_plain_gzip_member(csv: bytes) -> None:
    made = zipped(csv)
    assert gzip.decompress(made) == csv
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert unpacker.decompress(made) == csv
    assert unpacker.eof
    assert unpacker.unused_data == b""


@given(st.binary(max_size=4096))
def test_same_rows_are_the_same_bytes(csv: bytes) -> None:
    assert zipped(csv) == zipped(bytes(csv))
    assert gzip.decompress(zipped(csv)) == csv


def test_level_goes_by_the_whole_size_not_by_the_first_piece() -> None:
    csv = b"".join(b"%d,%d\n" % (number, number * 7919 % 1000) for number in range(40_000))
    assert len(csv) > SMALL_BYTES
    pieces = [csv[at : at + 100_000] for at in range(0, len(csv), 100_000)]
    made = compress(iter(pieces), csv_bytes=len(csv))
    assert gzip.decompress(made) == csv
    assert len(made) == len(zipped(csv))


def test_header_is_the_same_on_every_python_and_system() -> None:
    """No name, no time, no system, no flag: pinned by its digest. (The rest is as zlib writes it.)"""
    header = zipped(b"timestamp,x\n1,2\n")[:10]
    assert header == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    assert hashlib.sha256(header).hexdigest() == "217feb1e7490015dd0a2b231b9cea45804df3d2a9b37287ac861bb45b8c0de55"


def test_trailer_says_what_is_in_it() -> None:
    csv = b"timestamp,x\n1,2\n"
    assert zipped(csv)[-8:-4] == zlib.crc32(csv).to_bytes(4, "little")
    assert zipped(csv)[-4:] == len(csv).to_bytes(4, "little")
