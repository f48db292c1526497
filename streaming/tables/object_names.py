"""What an object's name tells: its sequence number, in any of the three forms that uploaders use.

00000042-0123456789ab.csv.gz    ours: the number and the first digits of the rows' sha256
000042.csv.gz                   the Rust client
0042.csv.gz                     the Python client (five digits and more past 9,999: the text no longer sorts)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"(?P<seq>\d{1,12})(?:-(?P<digest>[0-9a-f]{12}))?\.csv\.gz", re.ASCII)


@dataclass(frozen=True)
class ObjectName:
    """`seq` is None for a name of no known form; `digest` is there only in our form."""

    seq: int | None
    digest: str | None = None


@dataclass(frozen=True)
class Gap:
    """Sequence numbers that should be there and are not: from `first` to `last`, both missing."""

    first: int
    last: int


def parse_name(key: str) -> ObjectName:
    """Read the last part of a key."""
    match = _NAME.fullmatch(key.rpartition("/")[2])
    return ObjectName(int(match["seq"]), match["digest"]) if match else ObjectName(None)


def order_of(key: str) -> tuple[bool, int, str]:
    """Sort key: by number, whatever its digits; names of no known form last, as text."""
    seq = parse_name(key).seq
    return (seq is None, seq or 0, key)


def find_gaps(keys: Iterable[str]) -> list[Gap]:
    """The runs of missing numbers between 1 and the highest there is."""
    gaps, expected = [], 1
    for seq in sorted({seq for key in keys if (seq := parse_name(key).seq) is not None}):
        if seq > expected:
            gaps.append(Gap(expected, seq - 1))
        expected = seq + 1
    return gaps
