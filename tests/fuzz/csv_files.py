"""CSV files: any lines, cut anywhere, read by feeders that die and are followed by others."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from spool import Batch, Spool
from streaming.collect.csv_lines import BYTE_ORDER_MARK, LineSplitter, first_field
from streaming.collect.csv_tail import CsvFeeder
from tests.fuzz.target import Target
from tests.support import plays, spools

Rows = list[tuple[bytes, bytes]]
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"

pieces = st.sampled_from(
    [b"time", b"a", b"1", b",", b'"', b"\r", b"\n", b"\r\n", b" ", b"\x00", b"\xff", b"\xef\xbb\xbf", b"time,a\n"]
)
texts = st.lists(st.one_of(pieces, st.binary(max_size=4)), max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 150), max_size=8)


class Growth(NamedTuple):
    """A file, where it was cut when somebody looked, and at which looks another feeder had taken over."""

    csv: bytes
    cuts: list[int]
    successors: set[int]
    is_final: bool


def expected(csv: bytes) -> Rows:
    """What the rows are, said line by line: a line that names the first column as the header does is a header."""
    header, found = b"", []
    lines = csv.lstrip(b"\r\n").split(b"\n")[:-1]
    for line in (line + b"\n" for line in lines):
        name = first_field(header)
        if not header:
            header = line.removeprefix(BYTE_ORDER_MARK)
        elif first_field(line) == name and any(byte in LETTERS for byte in name) and _is_plain(line, name):
            header = line
        else:
            found.append((header, line))
    return found


def _is_plain(line: bytes, name: bytes) -> bool:
    """Whether the name stands at the line's very beginning, at most in quotes."""
    return line.startswith((name, b'"' + name + b'"'))


def rows_of(batches: list[Batch]) -> Rows:
    return [(batch.header, row + b"\n") for batch in batches for row in batch.rows.split(b"\n")[:-1]]


def csv_split(growth: Growth) -> None:
    splitter, batches, offset = LineSplitter(), [], 0
    for cut in [*sorted(growth.cuts), len(growth.csv)]:
        taken, end = splitter.split(growth.csv[offset : max(offset, cut)])
        assert splitter.rows_end <= end
        batches += taken
        offset += end
    assert offset == growth.csv.rfind(b"\n") + 1
    assert rows_of(batches) == expected(growth.csv)


def csv_taken_over(growth: Growth) -> None:
    """What feeders that follow one another put into the spool is what the whole file holds, each row once."""
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        path = Path(place, "rows.csv")
        with closing(Spool.create(Path(place, "spools"), plays.new_run())) as spool:
            feeder = CsvFeeder(spool, path)
            looks = [*sorted(growth.cuts), len(growth.csv)]
            for number, cut in enumerate(looks):
                path.write_bytes(growth.csv[:cut])
                feeder = CsvFeeder(spool, path) if number in growth.successors else feeder
                feeder.take(is_final=growth.is_final and number == len(looks) - 1)
            kept = spools.exported(spool).split(b"\n")[:-1]
    whole = growth.csv + (b"\n" if growth.is_final and not growth.csv.endswith(b"\n") else b"")
    assert kept == [row.removesuffix(b"\n") for _, row in expected(whole)], (kept, expected(whole))


def memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


growths = st.builds(Growth, texts, cuts, st.sets(st.integers(0, 8), max_size=4), st.booleans())
TARGETS = [Target(growths, csv_split), Target(growths, csv_taken_over)]
