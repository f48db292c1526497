"""Names of objects, in all three forms, and the gaps between them."""

from __future__ import annotations

import pytest

from streaming.tables.object_names import Gap, find_gaps, order_of, parse_name


@pytest.mark.parametrize(
    ("key", "seq", "digest"),
    [
        ("runs/a/00000042-0123456789ab.csv.gz", 42, "0123456789ab"),
        ("runs/a/000042.csv.gz", 42, None),
        ("runs/a/0042.csv.gz", 42, None),
        ("runs/a/10000.csv.gz", 10000, None),
        ("0001.csv.gz", 1, None),
        ("runs/a/notes.csv.gz", None, None),
        ("runs/a/00000042-xyz.csv.gz", None, None),
        ("runs/a/0042.csv", None, None),
        ("runs/a/٤٢.csv.gz", None, None),
        ("", None, None),
    ],
)
def test_the_number_is_read(key: str, seq: int | None, digest: str | None) -> None:
    name = parse_name(key)
    assert (name.seq, name.digest) == (seq, digest)


def test_order_is_by_number_whatever_the_digits() -> None:
    keys = ["x/10000.csv.gz", "x/notes", "x/9999.csv.gz", "x/00000002-0123456789ab.csv.gz"]
    assert sorted(keys, key=order_of) == [
        "x/00000002-0123456789ab.csv.gz",
        "x/9999.csv.gz",
        "x/10000.csv.gz",
        "x/notes",
    ]


def test_gaps_are_between_one_and_the_highest() -> None:
    assert find_gaps([]) == []
    assert find_gaps(["0001.csv.gz", "0002.csv.gz", "0002.csv.gz", "odd"]) == []
    assert find_gaps(["0003.csv.gz", "000006.csv.gz", "00000010-0123456789ab.csv.gz"]) == [
        Gap(1, 2),
        Gap(4, 5),
        Gap(7, 9),
    ]
