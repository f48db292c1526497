"""Any bytes, any values: what is handed over as a spool is told in words, and only rows that were appended are read."""

import re
import sqlite3
import struct
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spool import Batch, SegmentState, Spool
from spool.database import schema
from tests.support import plays, spools
from tests.support.hostile_spools import survive
from tests.support.spools import HEADER

ROWS = [b"%d,row %d\n" % (number, number) for number in range(40)]
SLOW = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


@cache
def template() -> tuple[bytes, bytes]:
    """A spool with segments in every state, two headers and pending rows; and its journal."""
    with tempfile.TemporaryDirectory() as directory:
        with closing(Spool.create(Path(directory) / "spools", plays.new_run())) as spool:
            spools.registered(spool)
            spool.append([Batch(HEADER, row) for row in ROWS[:10]])
            sent, rejected, *_ = spool.seal_pending(max_bytes=30)
            spool.mark_sent(sent, uri=f"s3://bucket/run-1/00000001-{sent.sha256[:12]}.csv.gz", etag="e")
            spool.reject(rejected, "refused")
            spool.append([Batch(b"timestamp,y\n", row) for row in ROWS[10:]])
            assert all(spool.segments(state) for state in SegmentState)
        return spool.path.read_bytes(), spools.journal_of(spool.path).read_bytes()


def tried(content: bytes, journal: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        survive(content, journal, Path(directory) / "ours", rows=set(ROWS))


@SLOW
@example([(3229, b"\x80")])  # in the text of the schema, which SQLite quotes
@given(st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=20))
def test_bytes_anywhere_in_the_file(changes: list[tuple[int, bytes]]) -> None:
    content, journal = template()
    changed = bytearray(content)
    for at, new in changes:
        at %= len(content) - 8
        changed[at : at + len(new)] = new
    tried(bytes(changed), journal)


@SLOW
@given(st.integers(0, 9), st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=30))
def test_structure_of_a_page(page: int, changes: list[tuple[int, int]]) -> None:
    """Its first bytes and its cell pointers: kinds, counts, offsets, children."""
    content, journal = template()
    changed = bytearray(content)
    for at, new in changes:
        changed[4096 * page + (at % 128) + (100 if page == 0 else 0)] = new
    tried(bytes(changed), journal)


@SLOW
@given(st.binary(max_size=3000), st.integers(0, 3), st.booleans())
def test_any_journal(body: bytes, records: int, is_hot: bool) -> None:
    content, _ = template()
    magic = bytes.fromhex("d9d505f920a163d7") if is_hot else bytes(8)
    header = (magic + struct.pack(">5I", records, 1, len(content) // 4096, 512, 4096)).ljust(512, b"\0")
    tried(content, header + body)


VALUES = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    st.binary(max_size=40),
    st.sampled_from(
        ["{}", "[]", '{"a": ' + "[" * 5000 + "]" * 5000 + "}", "sealed", "sent", "open", "ended", "finished"]
    ),
)
COLUMNS = [
    (table, name)
    for table, columns in re.findall(r"CREATE TABLE (\w+) \((.*?)\);", schema.TABLES, re.DOTALL)
    for name in re.findall(r"^    (\w+) [A-Z]", columns, re.MULTILINE)
    if name != "only_row"
]


@SLOW
@example([(("run", "metadata"), "{" * 200_000)])
@example([(("batch", "row_count"), float("inf")), (("batch", "appended_at"), "x")])
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), VALUES), min_size=1, max_size=4))
def test_any_value_in_any_column(changes: list[tuple[tuple[str, str], object]]) -> None:
    content, _ = template()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "changed"
        path.write_bytes(content)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for (table, column), value in changes:
                with_row = "rowid = (SELECT max(rowid) FROM " + table + ")"
                try:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {with_row}", (value,))
                except sqlite3.Error:  # a primary key, a unique value
                    continue
        tried(path.read_bytes(), b"")
