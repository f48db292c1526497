"""The columns that charts show, as numbers: read once, reduced to what a page can carry. The standard library is enough."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import math
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from streaming.read.export.rows import RunRows

MOST_POINTS = 60_000  # rows that a page carries as they are: 17 hours at a second, some 2 MB
STRETCHES = 30_000  # of longer runs: a week at a second in stretches of 20 s

COLUMNS = (
    "system_cpu_usage",
    "process_cpu_usage",
    "system_memory_used_mib",
    "process_memory_mib",
    "system_disk_read_bytes",
    "process_disk_read_bytes",
    "system_disk_write_bytes",
    "process_disk_write_bytes",
    "system_net_recv_bytes",
    "system_net_sent_bytes",
    "system_gpu_usage",
    "process_gpu_usage",
    "system_gpu_vram_mib",
    "process_gpu_vram_mib",
)
_COUNTED = "_bytes"  # the end of the names of what counts per sample


@dataclass(frozen=True)
class Stretches:
    """Times, and per column as many numbers of each kind: `mean` alone (rows as they are), or mean, max and min."""

    times: array[float]
    columns: dict[str, list[array[float]]]
    kinds: list[str]

    def packed(self) -> str:
        """Base64 of gzip of the little-endian numbers: times (float64), then each column's kinds (float32)."""
        parts = [self.times, *(numbers for kinds in self.columns.values() for numbers in kinds)]
        if sys.byteorder == "big":
            parts = [array(part.typecode, part) for part in parts]
            for part in parts:
                part.byteswap()
        return base64.b64encode(gzip.compress(b"".join(part.tobytes() for part in parts), 6, mtime=0)).decode()


@dataclass
class ChartNumbers:
    """The rows that have a time, in its order. A cell that is no finite number is NaN."""

    row_count: int = 0
    times: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, rows: RunRows) -> ChartNumbers:
        """Some 64 bytes of memory per row."""
        found = cls(columns={name: array("f") for name in COLUMNS})
        for header, lines in rows.batches():
            found._add(header.decode("utf-8", "replace"), lines.decode("utf-8", "replace"))
        found.columns = {name: numbers for name, numbers in found.columns.items() if any(n == n for n in numbers)}
        found._order()
        return found

    def _add(self, header: str, lines: str) -> None:
        names = next(csv.reader([header]), [])
        places = {name: names.index(name) for name in COLUMNS if name in names}
        time_place = names.index("timestamp") if "timestamp" in names else len(names)
        for fields in csv.reader(io.StringIO(lines, newline="")):
            self.row_count += 1
            time = _number(fields, time_place)
            if math.isfinite(time):
                self.times.append(time)
                for name, numbers in self.columns.items():
                    numbers.append(_number(fields, places.get(name, len(fields))))

    def _order(self) -> None:
        """A clock that was set back leaves rows out of order; charts need them in order."""
        if all(map(_is_ordered, self.times, self.times[1:])):
            return
        order = sorted(range(len(self.times)), key=self.times.__getitem__)
        self.times = array("d", (self.times[n] for n in order))
        self.columns = {name: array("f", (numbers[n] for n in order)) for name, numbers in self.columns.items()}

    @property
    def first_time(self) -> float | None:
        return self.times[0] if self.times else None

    @property
    def last_time(self) -> float | None:
        return self.times[-1] if self.times else None

    @property
    def interval_s(self) -> float | None:
        """The usual time from row to row."""
        steps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return round(median_low(steps), 3) if steps else None

    def figures(self) -> dict[str, dict[str, float]]:
        """Total of what is counted, average and peak of what is measured."""
        figures: dict[str, dict[str, float]] = {}
        for name, numbers in self.columns.items():
            known = [number for number in numbers if number == number]
            total = math.fsum(known)
            is_counted = name.endswith(_COUNTED)
            figures[name] = {"total": total} if is_counted else {"average": total / len(known), "peak": max(known)}
        return figures

    def stretches(self) -> Stretches:
        """Every row, or so many stretches of equal length with a row in them."""
        if len(self.times) <= MOST_POINTS:
            return Stretches(self.times, {name: [numbers] for name, numbers in self.columns.items()}, ["mean"])
        bounds = self._bounds()
        times = array("d", ((self.times[start] + self.times[end - 1]) / 2 for start, end in bounds))
        kinds: dict[str, Callable[[Any], float]] = {"mean": _mean, "max": max, "min": min}
        columns = {
            name: [_reduced(numbers, bounds, combine) for combine in kinds.values()]
            for name, numbers in self.columns.items()
        }
        return Stretches(times, columns, list(kinds))

    def _bounds(self) -> list[tuple[int, int]]:
        first, length = self.times[0], (self.times[-1] - self.times[0]) / STRETCHES
        starts, latest = [], -1
        for n, time in enumerate(self.times):
            stretch = min(STRETCHES - 1, int((time - first) / length)) if length else 0
            if stretch > latest:
                starts.append(n)
                latest = stretch
        return list(zip(starts, [*starts[1:], len(self.times)], strict=True))


def _reduced(numbers: array[float], bounds: Iterable[tuple[int, int]], combine: Callable[[Any], float]) -> array[float]:
    parts = (numbers[start:end] for start, end in bounds)
    known = (part if all(map(_is_known, part)) else array("f", filter(_is_known, part)) for part in parts)
    return array("f", (combine(part) if part else math.nan for part in known))


def _mean(numbers: array[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _is_known(number: float) -> bool:
    return number == number


def _is_ordered(before: float, after: float) -> bool:
    return before <= after


def _number(fields: list[str], place: int) -> float:
    try:
        number = float(fields[place])
    except (ValueError, IndexError):
        return math.nan
    return number if abs(number) < 3e38 else math.nan
