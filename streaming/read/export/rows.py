"""The rows of a run as they lie in its spool, in order, a batch at a time: as bytes, and as fields under column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from spool import Run, Segment, SegmentState, Spool, queries


@dataclass
class Gap:
    """Rows that the spool does not hold (any more)."""

    damaged: int = 0
    released: int = 0


class RunRows:
    """All rows of one run. Each pass reads the spool anew and holds one batch at a time."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.run: Run = spool.run()

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """(header line, whole CSV lines) in order; batches that fail their checksum are left out (see `gap`)."""
        return queries.exported(self._spool.connection)

    def headers(self) -> list[bytes]:
        """The header lines of the run, in the order in which they appeared."""
        return queries.headers(self._spool.connection)

    def columns(self) -> list[str]:
        """The names of all columns: those of the first header, then what later ones added."""
        return list(dict.fromkeys(name for header in self.headers() for name in _fields(header)))

    def records(self) -> Iterator[dict[str, str]]:
        """Each row as column name to text. A row with too few fields lacks the last ones; surplus ones get numbers."""
        names_of: dict[bytes, list[str]] = {}
        for header, lines in self.batches():
            names = names_of.setdefault(header, _fields(header))
            text = io.StringIO(lines.decode("utf-8", "replace"), newline="")
            for fields in csv.reader(text):
                yield {_name(names, at): field for at, field in enumerate(fields)}

    def objects(self) -> list[Segment]:
        """The segments that S3 has, in order."""
        return queries.segments(self._spool.connection, SegmentState.SENT)

    def gap(self, exported_count: int) -> Gap:
        """What is missing from an export of so many rows: left out as damaged, or released after S3 had them."""
        kept = queries.kept_row_count(self._spool.connection)
        recorded = queries.counts(self._spool.connection).recorded
        return Gap(damaged=max(0, kept - exported_count), released=max(0, recorded - kept))


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8", "replace")]), [])


def _name(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else f"column_{at + 1}"
