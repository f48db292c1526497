"""Samples of a process tree and the system, as CSV rows.

Columns: `timestamp` (s since the epoch), then `system_*`, then `process_*`; names and units are resource-tracker's. What
counts up (CPU time, bytes) is given since the row before, so that a column's sum is the whole: the first row counts from
where the recording is told to count, and the last one makes up for what was used since the last sample.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from csv import QUOTE_NONNUMERIC, writer
from dataclasses import dataclass
from io import StringIO
from typing import Any

from streaming.collect.procfs import (
    MeasureProcess,
    cpu_seconds,
    descendants,
    highest_memory_kib_of,
    io_bytes,
    measures,
)

_SHORTEST_S = 1e-3  # between two samples, however the clock jumps
_SUMS = ("utime", "stime", "disk_read_bytes", "disk_write_bytes")


@dataclass(frozen=True)
class Use:
    """What a process tree has used up to a moment: CPU seconds, bytes, and the most memory of one process (0: unknown)."""

    at: float
    utime: float = 0.0
    stime: float = 0.0
    disk_read_bytes: int = 0
    disk_write_bytes: int = 0
    peak_mib: float = 0.0

    @classmethod
    def of(cls, usage: Any, at: float, *, known_above_kib: float = 0.0) -> Use:
        """As the kernel sums it up (struct rusage). The peak of a command that we started begins with our own size, at
        the moment of the start: below that it says nothing."""
        peak_kib = usage.ru_maxrss if usage.ru_maxrss > known_above_kib else 0
        return cls(
            at,
            usage.ru_utime,
            usage.ru_stime,
            usage.ru_inblock * 512,
            usage.ru_oublock * 512,
            peak_kib / 1024,
        )

    def since(self, begin: Use) -> Use:
        """What was used in between. A peak that was there before is none of it."""
        return Use(
            self.at,
            self.utime - begin.utime,
            self.stime - begin.stime,
            self.disk_read_bytes - begin.disk_read_bytes,
            self.disk_write_bytes - begin.disk_write_bytes,
            self.peak_mib if self.peak_mib > begin.peak_mib else 0.0,
        )


class Sampler:
    """Measures a tree and the system in turn. A measurement that raises changes nothing: the next one goes on."""

    def __init__(
        self,
        pid: int,
        *,
        since: Use | None = None,
        peaks_below_mib: float = 0.0,
        measure_process: MeasureProcess | None = None,
    ) -> None:
        """Counts from `since`, else from now. Peaks of single processes are looked for below `peaks_below_mib`."""
        self._pid = pid
        of_tree, self._measure_system = measures()
        self._measure_process = measure_process or of_tree
        self._system = self._measure_system()
        self._process = self._measure_process(pid)
        if since is not None:
            self._process |= {"timestamp": since.at, **{name: getattr(since, name) for name in _SUMS}}
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._highest_mib = 0.0  # of all rows
        self._peaks_below_mib = peaks_below_mib
        self._peak_mib = 0.0  # of a single process
        self.header = b""
        self.latest: dict[str, Any] = {}

    def sample(self) -> bytes | None:
        """One row since the last call, None if the process is gone. Sets `header`, and `latest` to the values by column."""
        now = self._measure_process(self._pid)
        if now["memory_mib"] == 0:
            return None
        if self._peak_mib < self._peaks_below_mib:
            tree = (self._pid, *descendants(self._pid))
            self._peak_mib = max(self._peak_mib, *(highest_memory_kib_of(pid) / 1024 for pid in tree))
        system = self._system_row()
        used = {name: max(0, now[name] - self._process[name]) for name in _SUMS}
        row = self._row(system, self._process_row(now, used))
        self._process = now
        return row

    def last(self, total: Use) -> bytes:
        """The row of the process's end: `total` less what the rows tell already, and its peak if no row shows as much."""
        used = {name: max(0, getattr(total, name) - self._sums[name]) for name in _SUMS}
        peak_mib = max(total.peak_mib, self._peak_mib)
        end = {
            **self._process,
            "timestamp": max(
                total.at, self._process["timestamp"], self._system["timestamp"]
            ),  # not before the last row
            "children": 0,
            "memory_mib": peak_mib if peak_mib > self._highest_mib else self._process["memory_mib"],
            "gpu_usage": 0,
            "gpu_vram_mib": 0,
            "gpu_utilized": 0,
        }
        system = {**self._system_row(), "timestamp": round(end["timestamp"], 3)}
        return self._row(system, self._process_row(end, used))

    def _process_row(self, now: Mapping[str, Any], used: Mapping[str, float]) -> dict[str, Any]:
        seconds = max(_SHORTEST_S, now["timestamp"] - self._process["timestamp"])
        for name, number in used.items():
            self._sums[name] += number
        self._highest_mib = max(self._highest_mib, now["memory_mib"])
        cpu_usage = (used["utime"] + used["stime"]) / seconds
        return {
            "pid": self._pid,
            "children": now["children"] or None,
            "utime": round(used["utime"], 6),
            "stime": round(used["stime"], 6),
            "cpu_usage": round(min(cpu_usage, os.cpu_count() or cpu_usage), 4),
            "memory_mib": round(now["memory_mib"], 4),
            "disk_read_bytes": int(used["disk_read_bytes"]),
            "disk_write_bytes": int(used["disk_write_bytes"]),
            **_gpu(now),
        }

    def _system_row(self) -> dict[str, Any]:
        before, now = self._system, self._measure_system()
        self._system = now
        seconds = max(_SHORTEST_S, now["timestamp"] - before["timestamp"])
        user, system = (max(0, now[name] - before[name]) for name in ("utime", "stime"))
        spaces = now["disk_spaces"].values()
        return {
            "timestamp": round(now["timestamp"], 3),
            "processes": now["processes"],
            "utime": round(user, 6),
            "stime": round(system, 6),
            "cpu_usage": round((user + system) / seconds, 4),
            **{name: round(number, 4) for name, number in now.items() if name.startswith("memory_")},
            **{f"disk_{name}": _disk_bytes(before, now, name) for name in ("read_bytes", "write_bytes")},
            **{f"disk_space_{name}_gb": round(sum(each[name] for each in spaces) / 1e9, 2) for name in _SPACES},
            **{name: max(0, now[name] - before[name]) for name in ("net_recv_bytes", "net_sent_bytes")},
            **_gpu(now),
        }

    def _row(self, system: dict[str, Any], process: dict[str, Any]) -> bytes:
        combined: dict[str, Any] = {"timestamp": system.pop("timestamp")}
        combined.update((f"system_{name}", value) for name, value in system.items())
        combined.update((f"process_{name}", value) for name, value in process.items())
        self.latest = combined
        self.header = self.header or _csv_line(combined)
        return _csv_line(combined.values())


_SPACES = ("total", "used", "free")


def _disk_bytes(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> int:
    disks = now["disk_stats"].keys() & before["disk_stats"].keys()
    return sum(max(0, now["disk_stats"][disk][name] - before["disk_stats"][disk][name]) for disk in disks)


def _gpu(now: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "gpu_usage": round(now["gpu_usage"], 4),
        "gpu_vram_mib": round(now["gpu_vram_mib"], 4),
        "gpu_utilized": now["gpu_utilized"],
    }


def _csv_line(values: Any) -> bytes:
    buffer = StringIO(newline="")
    writer(buffer, quoting=QUOTE_NONNUMERIC, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode()


def used_by_us() -> Use:
    """What this process and its children have used, those that it waited for and those that live."""
    import resource

    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Not its ru_maxrss, where there is better: that begins with the size of whoever executed us.
    own_peak_kib = highest_memory_kib_of(os.getpid()) or own.ru_maxrss
    living = list(descendants(os.getpid()))
    user, system = (sum(cpu) for cpu in zip((0.0, 0.0), *map(cpu_seconds, living), strict=True))
    read, written = (sum(io) for io in zip((0, 0), *map(io_bytes, living), strict=True))
    return Use(
        time.time(),
        own.ru_utime + children.ru_utime + user,
        own.ru_stime + children.ru_stime + system,
        (own.ru_inblock + children.ru_inblock) * 512 + read,
        (own.ru_oublock + children.ru_oublock) * 512 + written,
        max(own_peak_kib, children.ru_maxrss) / 1024,
    )
