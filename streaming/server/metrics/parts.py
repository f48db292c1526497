"""A run's rows on disk: a few Parquet files (parts), each with the rows of neighbouring objects and what is known of them.

Invariants:
- A part appears whole (written beside, then renamed) and never changes. It is not synced: S3 has the truth, and a part that
  is torn, missing, damaged or of another version is deleted, and its objects are read again.
- A later part (by number) has the last word on an object: killed between the writing of a merged part and the deletion of
  what it was merged from, the older ones are found out of date at the next load.
- One process writes a run's parts at a time: the reader's lock of that run sees to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from spool.whole_files import private
from streaming.server.metrics.parse import LINE, ObjectFacts
from streaming.tables import parquet_file
from streaming.tables.figures import Array

VERSION = b"1"
SUFFIX = ".parquet"
_VERSION_KEY, _OBJECTS_KEY, _HEADERS_KEY = (
    b"tracker-stream:version",
    b"tracker-stream:objects",
    b"tracker-stream:headers",
)
LARGEST_ROWS = 1_000_000  # of a part that is made of others
_BATCH_ROWS = 10_000
_ALL_BAD = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


class DamagedPart(Exception):
    """The part at `path` cannot be read: delete it, and read its objects again."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass(frozen=True)
class Part:
    """A part as far as it is in memory: what is known of its objects, in the order of their rows."""

    path: Path
    objects: tuple[ObjectFacts, ...]
    names: tuple[str, ...]  # of its numeric columns

    @property
    def row_count(self) -> int:
        return sum(facts.kept_row_count for facts in self.objects)

    def column(self, name: str) -> Array:
        """NaN where there is no number. Raises DamagedPart."""
        if name not in self.names:
            return np.full(self.row_count, np.nan)
        try:
            return np.asarray(_table(self.path, [name]).column(0).to_numpy(), dtype=np.float64)
        except _ALL_BAD as exc:
            raise DamagedPart(self.path) from exc

    def open(self) -> Any:
        """The file, a context manager. Raises DamagedPart."""
        try:
            return parquet.ParquetFile(self.path, page_checksum_verification=True)
        except _ALL_BAD as exc:
            raise DamagedPart(self.path) from exc

    def texts(self, file: Any) -> Iterator[bytes]:
        """Its rows as they were written, many at a time. Raises DamagedPart."""
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[LINE]):
                yield b"".join(batch.column(0).to_pylist())
        except _ALL_BAD as exc:
            raise DamagedPart(self.path) from exc

    @property
    def starts(self) -> list[int]:
        """The number of the first row of each object."""
        return [0, *accumulate(facts.kept_row_count for facts in self.objects)][:-1]


def load(directory: Path) -> list[Part]:
    """The parts of a run in order; damaged ones and those of another version are deleted."""
    found = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            found.append(open_part(path))
        except _ALL_BAD:
            path.unlink(missing_ok=True)
    return found


def open_part(path: Path) -> Part:
    """Read what is known of the objects. Raises one of `_ALL_BAD` if it is no part of this version."""
    with parquet.ParquetFile(path) as file:
        schema, row_count = file.schema_arrow, file.metadata.num_rows
    metadata = schema.metadata or {}
    if metadata.get(_VERSION_KEY) != VERSION:
        raise ValueError("a part of another version")
    headers = json.loads(metadata[_HEADERS_KEY])
    objects = [
        ObjectFacts(**{**fields, "header": headers[fields["header"]]}) for fields in json.loads(metadata[_OBJECTS_KEY])
    ]
    part = Part(path, tuple(objects), tuple(name for name in schema.names if name != LINE))
    if part.row_count != row_count:
        raise ValueError("the rows are not those of the objects")
    return part


def write(path: Path, objects: Sequence[ObjectFacts], table: pa.Table) -> None:
    """Make the part appear, whole or not at all; readable by its owner only."""
    _write(path, objects, [name for name in table.column_names if name != LINE], [table])


def _write(path: Path, objects: Sequence[ObjectFacts], names: Sequence[str], tables: Iterable[pa.Table]) -> None:
    schema = pa.schema([*((name, pa.float64()) for name in names), (LINE, pa.binary())], metadata=_metadata(objects))
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb", opener=private) as file:
        parquet_file.write(file, schema, tables)
    os.replace(unfinished, path)


def _metadata(objects: Sequence[ObjectFacts]) -> dict[bytes, bytes]:
    headers = {header: number for number, header in enumerate(dict.fromkeys(facts.header for facts in objects))}
    described = [{**asdict(facts), "header": headers[facts.header]} for facts in objects]
    return {
        _VERSION_KEY: VERSION,
        _OBJECTS_KEY: json.dumps(described).encode(),
        _HEADERS_KEY: json.dumps(list(headers)).encode(),
    }


def merge(path: Path, sources: Iterable[Path], keys: Sequence[str] | None) -> None:
    """Make few parts of many, from `path` on, and delete those: the newest of each object, in the order of `keys`
    (None: as they are). Of an object that is not among `keys` only its facts remain. Memory holds one of the parts.
    """
    parts = [open_part(source) for source in sources]
    newest = {
        facts.key: (part, facts, start)
        for part in parts
        for facts, start in zip(part.objects, part.starts, strict=True)
    }
    wanted = [key for key in (newest if keys is None else keys) if key in newest]
    strays = [replace(newest[key][1], is_stray=True) for key in sorted(newest.keys() - set(wanted))]
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    for number, group in enumerate(_of_one_part([newest[key] for key in wanted])):
        objects = [*(facts for _, facts, _ in group), *(strays if number == 0 else ())]
        _write(numbered(path.parent, int(path.stem) + number), objects, names, _slices(group))
    for part in parts:
        part.path.unlink(missing_ok=True)


_Place = tuple[Part, ObjectFacts, int]


def _of_one_part(places: Sequence[_Place]) -> list[list[_Place]]:
    """Groups of at most `LARGEST_ROWS`; at least one, for the sake of the facts."""
    groups: list[list[_Place]] = [[]]
    row_count = 0
    for place in places:
        row_count += place[1].kept_row_count
        if groups[-1] and row_count > LARGEST_ROWS:
            groups.append([])
            row_count = place[1].kept_row_count
        groups[-1].append(place)
    return groups


def _slices(places: Iterable[_Place]) -> Iterator[pa.Table]:
    """The rows of each object."""
    loaded: tuple[Part, pa.Table] | None = None
    for part, facts, start in places:
        if loaded is None or loaded[0] is not part:
            loaded = None  # one at a time
            loaded = (part, _table(part.path, None))
        yield loaded[1].slice(start, facts.kept_row_count)


def _table(path: Path, columns: list[str] | None) -> pa.Table:
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)


def next_path(directory: Path, parts: Sequence[Part]) -> Path:
    """Where the next part of the run goes."""
    return numbered(directory, 1 + max((int(part.path.stem) for part in parts), default=0))


def numbered(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}{SUFFIX}"
