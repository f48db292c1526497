"""All rows of one run, in the order of time, as columns of numbers read from its parts when they are asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from streaming.collect.need import SAMPLED, Need
from streaming.server.metrics.parse import LINE, ObjectFacts
from streaming.server.metrics.parts import Part
from streaming.server.storage.seen import Seen, Sketch
from streaming.tables.csv_cells import lines_of, rows_of
from streaming.tables.csv_text import column_names
from streaming.tables.figures import Array, figures_of, need_figures
from streaming.tables.schema import TIMESTAMP
from streaming.tables.series import Indices, time_order

CURVE_POINTS = 60
_CPU = ("process_cpu_usage", "system_cpu_usage")
_MEMORY = ("process_memory_mib", "system_memory_used_mib")


class StoredRows:
    """Immutable, and small: the numbers stay on disk. Everything that reads them may raise DamagedPart."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.row_count = sum(part.row_count for part in parts)

    @cached_property
    def objects(self) -> list[ObjectFacts]:
        """Those whose rows these are, in order."""
        return [facts for part in self.parts for facts in part.objects if not facts.is_stray]

    @cached_property
    def all_objects(self) -> dict[str, ObjectFacts]:
        """By key; such as the finish does not name, too."""
        return {facts.key: facts for part in self.parts for facts in part.objects}

    @cached_property
    def names(self) -> list[str]:
        """The numeric columns of all objects, in the order in which they first appear; without the timestamp."""
        found = dict.fromkeys(name for part in self.parts for name in part.names)
        found.pop(TIMESTAMP, None)
        return list(found)

    @cached_property
    def seen(self) -> Seen:
        uploads = sorted(facts.uploaded_at for facts in self.objects)
        pauses = [after - before for before, after in pairwise(uploads)]
        return Seen(
            row_count=self.row_count,
            object_count=len(self.objects),
            first=min((facts.first for facts in self.objects if facts.first is not None), default=None),
            last=max((facts.last for facts in self.objects if facts.last is not None), default=None),
            last_upload_at=uploads[-1] if uploads else None,
            longest_pause_s=max(pauses, default=0.0),
            usual_pause_s=sorted(pauses)[len(pauses) // 2] if pauses else 0.0,
        )

    @cached_property
    def figures(self) -> dict[str, Any]:
        return figures_of(self.row_count, self.values)

    @cached_property
    def sketch(self) -> Sketch:
        """Of the process, or where nothing was recorded of one, of the system."""
        cpu, memory = self._first_known(_CPU), self._first_known(_MEMORY)
        known_cpu, known_memory = cpu[np.isfinite(cpu)], memory[np.isfinite(memory)]
        return Sketch(
            average_cpu=_short(known_cpu.mean()) if len(known_cpu) else None,
            peak_memory_mib=_short(known_memory.max()) if len(known_memory) else None,
            cpu_99=_short(self.need.cpus) if self.need.sample_count else None,
            cpu=_curve(self.timestamps, cpu),
            memory=_curve(self.timestamps, memory),
        )

    @cached_property
    def need(self) -> Need:
        """What the process used; of no sample where no process was recorded."""
        if not {*SAMPLED} <= {TIMESTAMP, *self.names}:
            return Need()
        figures = need_figures(self.timestamps, *(self.column(name) for name in SAMPLED[1:]))
        return Need() if figures is None else Need.of(**figures)

    def _first_known(self, names: Sequence[str]) -> Array:
        found = (self.column(name) for name in names if name in self.names)
        return next((values for values in found if np.isfinite(values).any()), np.empty(0))

    def values(self, name: str) -> Array:
        """The column's numbers, of all rows in the order of their objects; NaN where there is none."""
        return np.concatenate([np.empty(0), *(part.column(name) for part in self.parts)])

    @cached_property
    def timestamps(self) -> Array:
        """Seconds since the epoch, ascending; rows without one are left out here and in `column`."""
        times = self.values(TIMESTAMP)
        return times if self._positions is None else times[self._positions]

    def column(self, name: str) -> Array:
        """The numbers beside `timestamps`."""
        values = self.values(name)
        return values if self._positions is None else values[self._positions]

    @cached_property
    def _positions(self) -> Indices | None:
        return time_order(self.values(TIMESTAMP))

    def csv(self) -> Iterator[bytes]:
        """One header line with every object's columns, then the rows as they were recorded, in their order.

        Opens all parts at once: one that is merged meanwhile stays readable.
        """
        opened = ExitStack()
        files = [(part, opened.enter_context(part.open())) for part in self.parts]
        return self._csv(opened, files)

    def _csv(self, opened: ExitStack, files: Sequence[tuple[Part, Any]]) -> Iterator[bytes]:
        headers = list(dict.fromkeys(facts.header for facts in self.objects if facts.header))
        columns = [column_names(header.encode()) for header in headers]
        names = list(dict.fromkeys(name for of_one in columns for name in of_one))
        with opened:
            if headers:
                yield headers[0].encode() + b"\n" if list(columns[0]) == names else _csv_line(names)
            for part, file in files:
                yield from part.texts(file) if len(headers) == 1 else _rearranged(part, file, names)


def _curve(times: Array, values: Array) -> list[float | None]:
    """Averages over equal stretches of time; empty where there are no values at all."""
    if not len(values):
        return []
    span = times[-1] - times[0]
    count = max(1, min(CURVE_POINTS, len(times) - 1)) if span > 0 else 1
    known = np.isfinite(values)
    places = np.minimum((times[known] - times[0]) / (span or 1.0) * count, count - 1).astype(int)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = np.bincount(places, values[known], minlength=count) / np.bincount(places, minlength=count)
    return [_short(mean) for mean in means.tolist()]


def _short(value: float) -> float | None:
    """As precise as a small picture needs; None for what is no number."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _csv_line(cells: Sequence[str]) -> bytes:
    output = io.StringIO(newline="")
    csv.writer(output, lineterminator="\n").writerow(cells)
    return output.getvalue().encode()


def _rearranged(part: Part, file: Any, names: list[str]) -> Iterator[bytes]:
    """An object at a time; the rows of one with other columns, put under the common header."""
    lines = file.read([LINE]).column(0)
    for facts, start in zip(part.objects, part.starts, strict=True):
        text = b"".join(lines.slice(start, facts.kept_row_count).to_pylist())
        columns = column_names(facts.header.encode())
        yield text if list(columns) == names else _under(names, columns, text.decode())


def _under(names: list[str], columns: Sequence[str], text: str) -> bytes:
    output = io.StringIO(newline="")
    writer = csv.DictWriter(output, names, restval="", lineterminator="\n")
    writer.writerows(dict(zip(columns, cells, strict=False)) for cells in rows_of(lines_of(text)))
    return output.getvalue().encode()
