"""Spools for tests: filled, looked into, and damaged on purpose while no process has them open."""

import os
import random
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from spool import Batch, Registration, Segment, SegmentState, Spool, queries
from tests.support import plays

HEADER = b"timestamp,x\n"
REGISTRATION = Registration("run-1", "s3://bucket/run-1")


def rows(first: int, count: int = 1, *, width: int = 0) -> bytes:
    """Recognisable rows, numbered from `first`."""
    return b"".join(b"%d,%s\n" % (number, b"x" * width) for number in range(first, first + count))


def filled(directory: Path, batches: Sequence[bytes], *, header: bytes = HEADER) -> Path:
    """A spool with one batch for each entry (in one transaction: a commit each would take long)."""
    with closing(Spool.create(directory, plays.new_run())) as spool:
        spool.append([Batch(header, entry) for entry in batches])
    return spool.path


def registered(spool: Spool) -> None:
    spool.register(REGISTRATION)


def send_all(spool: Spool, *, max_bytes: int = 1 << 20) -> list[Segment]:
    """Seal all that is pending and mark it sent, as if S3 had taken it."""
    for segment in spool.seal_pending(max_bytes):
        spool.mark_sent(segment, uri=f"{REGISTRATION.upload_uri_prefix}/{segment.seq:08d}", etag="etag")
    return spool.segments(SegmentState.SENT)


def exported(spool: Spool) -> bytes:
    return b"".join(csv for _, csv in queries.exported(spool.connection))


def journal_of(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def aside(path: Path) -> list[Path]:
    """The damaged files that were kept beside a spool, without their journals."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(file for file in found if not file.name.endswith("-journal"))


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The database itself, for changes that the product would not make."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def only_in_s3(spool: Spool) -> list[Segment]:
    """Sent segments whose rows made room for others on a full disk."""
    kept = "SELECT 1 FROM batch WHERE batch_id = first_batch_id AND row_count > 0"
    gone = f"SELECT seq FROM segment WHERE NOT EXISTS ({kept})"
    seqs = {seq for (seq,) in spool.connection.query(gone)}
    return [segment for segment in spool.segments(SegmentState.SENT) if segment.seq in seqs]


def plant_super_journal(path: Path, victim: Path) -> None:
    """A hot journal beside a spool that says: this was one transaction over several databases, and `victim` lists them.

    SQLite plays it back when the spool is opened, and then deletes the list.
    """
    magic, name = bytes.fromhex("d9d505f920a163d7"), os.fsencode(victim)
    pages = page_count(path)
    header = magic + struct.pack(">5I", 0, 7, pages, 512, page_bytes(path))
    lock_page = 0x40000000 // page_bytes(path) + 1
    record = struct.pack(">I", lock_page) + name + struct.pack(">II", len(name), sum(name)) + magic
    journal_of(path).write_bytes(header.ljust(512, b"\0") + record)


def page_bytes(path: Path) -> int:
    """As the file's header says: a short run that has ended is in small pages."""
    return int.from_bytes(path.read_bytes()[16:18], "big")


def page_count(path: Path) -> int:
    return path.stat().st_size // page_bytes(path)


def root_pages(path: Path) -> dict[str, int]:
    with raw(path) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))


def overwrite_page(path: Path, number: int, content: bytes | None = None) -> None:
    """Zero a page (counted from 1), or fill it with something."""
    size = page_bytes(path)
    with path.open("r+b") as file:
        file.seek((number - 1) * size)
        file.write((content or bytes(size))[:size])


def pages_of(path: Path, table: str) -> list[int]:
    """The pages of a table and, marked by nothing, its overflow pages, as SQLite's own walk over it gives them."""
    with raw(path) as connection:
        try:
            found = connection.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (table,))
            return [number for (number,) in found]
        except sqlite3.OperationalError:
            return leaves_holding(path, table)


def leaves_holding(path: Path, table: str) -> list[int]:
    """Leaf pages of a table by asking SQLite for its root and walking down (no dbstat in this build)."""
    content = path.read_bytes()
    return sorted(_walk(content, root_pages(path)[table]))


def _walk(content: bytes, number: int) -> Iterator[int]:
    size = int.from_bytes(content[16:18], "big")
    page = content[(number - 1) * size : number * size]
    if page[0] in (0x0D, 0x0A):
        yield number
        return
    cells = int.from_bytes(page[3:5], "big")
    offsets = [int.from_bytes(page[12 + 2 * at : 14 + 2 * at], "big") for at in range(cells)]
    for child in [int.from_bytes(page[at : at + 4], "big") for at in offsets] + [int.from_bytes(page[8:12], "big")]:
        yield from _walk(content, child)


def flip_bit(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def flip_random_bit(path: Path, chance: random.Random) -> tuple[int, int]:
    offset, bit = chance.randrange(os.path.getsize(path)), chance.randrange(8)
    flip_bit(path, offset, bit)
    return offset, bit


def offset_of(path: Path, needle: bytes) -> int:
    """Where these bytes are in the file: exactly once."""
    content = path.read_bytes()
    assert content.count(needle) == 1, f"{needle!r} occurs {content.count(needle)} times"
    return content.index(needle)
