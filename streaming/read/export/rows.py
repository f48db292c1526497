"""The rows of a run as they lie in its spool, in order, a batch at a time: as bytes, and as fields under column names."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spool import Run, RunState, Spool, queries
from streaming.tables.csv_cells import lines_of, rows_of
from streaming.upload.life import tracker_is_gone


@dataclass
class MissingRows:
    """Rows that the spool does not hold (any more)."""

    damaged: int = 0
    released: int = 0


class RunRows:
    """All rows of one run: those that there were when this was made. Each pass reads the spool anew, a batch at a time."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.path = spool.path
        self.run: Run = spool.run()
        self.row_count = 0  # of the latest pass
        self._last_batch_id = queries.last_batch_id(spool.connection)
        self._released = queries.counts(spool.connection).recorded - self._kept()

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """(header line, whole CSV lines) in order; batches that fail their checksum are left out (see `gap`)."""
        self.row_count = 0
        for header, lines in queries.exported_in_bulk(self._spool.connection, up_to=self._last_batch_id):
            self.row_count += lines.count(b"\n")
            yield header, lines

    def headers(self) -> list[bytes]:
        """The header lines of the run, in the order in which they appeared."""
        return queries.headers(self._spool.connection)

    def columns(self) -> list[str]:
        """The names of all columns: those of the first header, then what later ones added."""
        return list(dict.fromkeys(name for header in self.headers() for name in _fields(header)))

    def records(self) -> Iterator[dict[str, str]]:
        """Each row as column name to text (see `fields_under`)."""
        for header, lines in self.batches():
            yield from fields_under(header, lines)

    def following(self, *, pause_s: float = 0.5) -> Iterator[tuple[bytes, bytes]]:
        """All batches, then those that come, until its tracker has ended the run or is gone. Waits in between."""
        yield from self.batches()
        goes_on = True
        while goes_on:
            goes_on = self._spool.run().state is RunState.OPEN and not tracker_is_gone(self._spool)
            last, self._last_batch_id = self._last_batch_id, queries.last_batch_id(self._spool.connection)
            yield from queries.exported(self._spool.connection, after=last, up_to=self._last_batch_id)
            if goes_on:
                time.sleep(pause_s)

    def gap(self) -> MissingRows:
        """What was missing in the latest pass: left out as damaged, or released after S3 had it."""
        return MissingRows(damaged=max(0, self._kept() - self.row_count), released=max(0, self._released))

    def _kept(self) -> int:
        return queries.kept_row_count(self._spool.connection, self._last_batch_id)


class JoinedRows(RunRows):
    """The rows of several runs, one after the other, with the name of each row's run before its other columns."""

    def __init__(self, every: Sequence[RunRows]) -> None:
        self._every = every

    @property
    def row_count(self) -> int:  # type: ignore[override]
        return sum(rows.row_count for rows in self._every)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        for rows in self._every:
            name = rows.path.stem.encode() + b","
            for header, lines in rows.batches():
                yield b"run," + header, _prefixed(name, lines)

    def headers(self) -> list[bytes]:
        return list(dict.fromkeys(b"run," + header for rows in self._every for header in rows.headers()))

    def gap(self) -> MissingRows:
        gaps = [rows.gap() for rows in self._every]
        return MissingRows(sum(gap.damaged for gap in gaps), sum(gap.released for gap in gaps))


def _prefixed(name: bytes, lines: bytes) -> bytes:
    """Each row with the name before it; a row may hold line ends within quotes."""
    found: list[bytes] = []
    is_within = False
    for line in io.BytesIO(lines):
        found += [line] if is_within else [name, line]
        is_within ^= bool(line.count(b'"') % 2)
    return b"".join(found)


def fields_under(header: bytes, lines: bytes) -> Iterator[dict[str, str]]:
    """Rows as column name to text. A row with too few fields lacks the last ones; surplus ones get numbers."""
    names = _fields(header)
    for fields in rows_of(lines_of(lines.decode("utf-8", "replace"))):
        yield {_name(names, at): field for at, field in enumerate(fields)}


def _fields(line: bytes) -> list[str]:
    return next(rows_of([line.decode("utf-8", "replace")]), [])


def _name(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else f"column_{at + 1}"
