"""What a finish is answered with: figures computed from the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming.server.metrics.reader import RunReader
from streaming.server.metrics.rows import RunRows
from streaming.server.storage.runs import Run, RunStore

FINISH_TIMEOUT_S = 10.0
_DIGITS = 4

MEASURES = (
    "system_cpu_usage",
    "system_memory_used_mib",
    "system_gpu_usage",
    "system_gpu_vram_mib",
    "process_cpu_usage",
    "process_memory_mib",
    "process_gpu_usage",
    "process_gpu_vram_mib",
)
TOTALS = (
    "system_disk_read_bytes",
    "system_disk_write_bytes",
    "system_net_recv_bytes",
    "system_net_sent_bytes",
    "process_disk_read_bytes",
    "process_disk_write_bytes",
)


def compute_statistics(run: Run, runs: RunStore, reader: RunReader, *, timeout_s: float | None) -> dict[str, Any]:
    """Read, compute, and keep. `complete` says whether every object of the finish could be read in time."""
    reading = reader.read(run, fresh_s=0, timeout_s=timeout_s)
    statistics = {**figures_of(reading.rows), "complete": reading.is_complete}
    runs.set_statistics(run.run_id, statistics)
    return statistics


def figures_of(rows: RunRows) -> dict[str, Any]:
    """Row count, times, average and peak of what is measured, totals of what is counted. Nothing that is not finite."""
    times = rows.values("timestamp")
    first, last = (float(times.min()), float(times.max())) if len(times) else (None, None)
    measured = {name: _measure(rows, name) for name in MEASURES}
    totals = {name: _total(rows, name) for name in TOTALS}
    return {
        "row_count": rows.row_count,
        "first_timestamp": first,
        "last_timestamp": last,
        "duration_s": _duration_s(first, last),
        **{name: value for name, value in {**measured, **totals}.items() if value is not None},
    }


def _duration_s(first: float | None, last: float | None) -> float | None:
    if first is None or last is None or not np.isfinite(last - first):
        return None
    return round(last - first, 3)


def _measure(rows: RunRows, name: str) -> dict[str, float] | None:
    values = rows.values(name)
    if not len(values):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        average, peak = float(values.mean()), float(values.max())
    return {"average": round(average, _DIGITS), "peak": round(peak, _DIGITS)} if np.isfinite(average) else None


def _total(rows: RunRows, name: str) -> dict[str, float] | None:
    values = rows.values(name)
    if not len(values):
        return None
    with np.errstate(over="ignore"):
        total = float(values.sum())
    return {"total": total} if np.isfinite(total) else None
