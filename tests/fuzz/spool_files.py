"""Spool files: bytes flipped, overwritten, cut off, pages swapped, with any journal beside them, opened as commands do."""

import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from spool import Batch, Spool
from tests.fuzz.csv_files import memory
from tests.fuzz.target import Target
from tests.support import plays, spools
from tests.support.hostile_spools import survive

PAGE_BYTES = 4096
PAGES = 16
ROWS = [b"%d,row %d\n" % (number, number) for number in range(60)]

places = st.integers(0, PAGES * PAGE_BYTES - 1)


class Damage(NamedTuple):
    """What became of a file: bits flipped, bytes overwritten, pages swapped, the end cut off; and its journal's fate."""

    flips: list[int]
    overwritten: list[tuple[int, bytes]]
    swapped: list[tuple[int, int]]
    length: int | None
    journal: bytes | None


damages = st.builds(
    Damage,
    st.lists(places, max_size=12),
    st.lists(st.tuples(places, st.binary(min_size=1, max_size=64)), max_size=3),
    st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, PAGES - 1)), max_size=2),
    st.one_of(st.none(), st.integers(0, PAGES * PAGE_BYTES)),
    st.one_of(st.none(), st.binary(max_size=600)),
)


@cache
def template() -> tuple[bytes, bytes]:
    """A spool amid its life: segments in every state, two headers, pending rows; and its journal."""
    with tempfile.TemporaryDirectory() as directory:
        with closing(Spool.create(Path(directory) / "spools", plays.new_run())) as spool:
            spools.registered(spool)
            spool.append([Batch(spools.HEADER, row) for row in ROWS[:20]])
            sent, rejected, *_ = spool.seal_pending(max_bytes=60)
            spool.mark_sent(sent, uri=f"s3://bucket/run-1/00000001-{sent.sha256[:12]}.csv.gz", etag="e")
            spool.reject(rejected, "refused")
            spool.append([Batch(b"timestamp,y\n", row) for row in ROWS[20:]])
        return spool.path.read_bytes(), spools.journal_of(spool.path).read_bytes()


def damaged(damage: Damage) -> bytes:
    content = bytearray(template()[0])
    for one, other in damage.swapped:
        here, there = _page(one, len(content)), _page(other, len(content))
        content[here], content[there] = content[there], content[here]
    for at, new in damage.overwritten:
        at %= len(content)
        content[at : at + len(new)] = new[: len(content) - at]
    for at in damage.flips:
        content[at % len(content)] ^= 1 << at % 8
    return bytes(content[: damage.length])


def _page(number: int, length: int) -> slice:
    at = number * PAGE_BYTES % length
    return slice(at, at + PAGE_BYTES)


def spool_files(damage: Damage) -> None:
    """Only a SpoolError comes of it, and only rows that were appended."""
    journal = template()[1] if damage.journal is None else damage.journal
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        survive(damaged(damage), journal, Path(place) / "ours", rows=set(ROWS))


TARGETS = [Target(damages, spool_files)]
