"""What a finish is answered with: figures computed from the rows."""

from __future__ import annotations

import csv
import gzip
import io
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import StoreUnavailable
from .objects import ObjectStore
from .runs import Run, RunStore

_READ_TIMEOUT_S = 10.0

# Name in the answer -> column of the combined CSV.
MEASURES = {
    "system_cpu_usage": "system_cpu_usage",
    "system_memory_used_mib": "system_memory_used_mib",
    "system_gpu_usage": "system_gpu_usage",
    "system_gpu_vram_mib": "system_gpu_vram_mib",
    "process_cpu_usage": "process_cpu_usage",
    "process_memory_mib": "process_memory_mib",
    "process_gpu_usage": "process_gpu_usage",
    "process_gpu_vram_mib": "process_gpu_vram_mib",
}


@dataclass
class _Measure:
    count: int = 0
    total: float = 0.0
    peak: float = -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.peak = max(self.peak, value)

    def as_json(self) -> dict[str, float]:
        return {"average": round(self.total / self.count, 4), "peak": round(self.peak, 4)}


@dataclass
class RunStatistics:
    """Adds up CSV texts, each with a header line of its own. A cell that is no finite number is left out, never an error."""

    row_count: int = 0
    first_timestamp: float | None = None
    last_timestamp: float | None = None
    _measures: dict[str, _Measure] = field(default_factory=lambda: {name: _Measure() for name in MEASURES})

    def add_csv(self, text: str) -> None:
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(reader, [])
        columns = {name: header.index(column) for name, column in MEASURES.items() if column in header}
        time_column = header.index("timestamp") if "timestamp" in header else None
        for row in _whole_rows(reader):
            self.row_count += 1
            if time_column is not None:
                self._add_time(_number(row, time_column))
            for name, index in columns.items():
                self._add_value(name, _number(row, index))

    def as_json(self) -> dict[str, Any]:
        first, last = self.first_timestamp, self.last_timestamp
        return {
            "row_count": self.row_count,
            "first_timestamp": first,
            "last_timestamp": last,
            "duration_s": None if first is None or last is None else round(last - first, 3),
            **{name: measure.as_json() for name, measure in self._measures.items() if measure.count},
        }

    def _add_time(self, value: float | None) -> None:
        if value is not None:
            self.first_timestamp = value if self.first_timestamp is None else min(self.first_timestamp, value)
            self.last_timestamp = value if self.last_timestamp is None else max(self.last_timestamp, value)

    def _add_value(self, name: str, value: float | None) -> None:
        if value is not None:
            self._measures[name].add(value)


def statistics_of(texts: Iterable[str]) -> RunStatistics:
    """The figures of all texts together."""
    statistics = RunStatistics()
    for text in texts:
        statistics.add_csv(text)
    return statistics


def _whole_rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows up to the first that csv cannot read."""
    try:
        yield from (row for row in reader if row)
    except csv.Error:
        return


def _number(row: list[str], index: int) -> float | None:
    try:
        value = float(row[index])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


def statistics_of_run(run: Run, runs: RunStore, objects: ObjectStore) -> dict[str, Any]:
    """The figures of a finished run, from what could be read within the time; `complete` says whether that was all."""
    statistics, complete = RunStatistics(), True
    inline = runs.inline_csv(run.run_id)
    if inline is not None:
        statistics.add_csv(inline.decode())
    deadline = time.monotonic() + _READ_TIMEOUT_S
    for uri in run.data_uris:
        if time.monotonic() > deadline:
            return {**statistics.as_json(), "complete": False}
        try:
            statistics.add_csv(gzip.decompress(objects.read(_key(uri))).decode())
        except (StoreUnavailable, OSError, EOFError, zlib.error, UnicodeDecodeError):
            complete = False
    return {**statistics.as_json(), "complete": complete}


def _key(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]
