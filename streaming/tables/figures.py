"""Figures of a run from its columns: average and peak of what is measured, totals of what is counted, times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[np.float64]

_DIGITS = 4
MEASURES = tuple(
    f"{side}_{name}"
    for side, memory in (("system", "memory_used_mib"), ("process", "memory_mib"))
    for name in ("cpu_usage", memory, "gpu_usage", "gpu_vram_mib")
)
TOTALS = (
    "system_disk_read_bytes",
    "system_disk_write_bytes",
    "system_net_recv_bytes",
    "system_net_sent_bytes",
    "process_disk_read_bytes",
    "process_disk_write_bytes",
)


def figures_of(row_count: int, column: Callable[[str], Array]) -> dict[str, Any]:
    """Row count, times, averages and peaks, totals. `column` gives all rows' numbers; what is not finite does not count."""
    first, last = extent_of(_finite(column("timestamp")))
    measured = {name: _measure(_finite(column(name))) for name in MEASURES}
    totals = {name: _total(_finite(column(name))) for name in TOTALS}
    return {
        "row_count": row_count,
        "first_timestamp": first,
        "last_timestamp": last,
        "duration_s": _duration_s(first, last),
        **{name: value for name, value in {**measured, **totals}.items() if value is not None},
    }


def need_figures(times: Array, cpus: Array, memory_mib: Array) -> dict[str, Any] | None:
    """What `Need.of` takes, of columns of equal length: only rows that have all three numbers count."""
    known = np.isfinite(times) & np.isfinite(cpus) & np.isfinite(memory_mib)
    if not known.any():
        return None
    first, last = float(times[known].min()), float(times[known].max())
    most = float(np.quantile(cpus[known], 0.99, method="inverted_cdf"))
    return {
        "sample_count": int(known.sum()),
        "cpus": most,
        "peak_mib": float(memory_mib[known].max()),
        "first_at": first,
        "last_at": last,
    }


def numbers(table: pa.Table, name: str) -> Array:
    """A column as floats (times as seconds since the epoch); NaN where there is no number."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column(name)
    is_time = pa.types.is_timestamp(column.type)
    if pa.types.is_string(column.type):
        return np.full(table.num_rows, np.nan)
    values = (column.cast(pa.int64()) if is_time else column).cast(pa.float64(), safe=False).to_numpy()
    return values / 1e6 if is_time else np.asarray(values, dtype=np.float64)


def extent_of(times: Array) -> tuple[float | None, float | None]:
    """The earliest and the latest of finite times."""
    return (float(times.min()), float(times.max())) if len(times) else (None, None)


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _duration_s(first: float | None, last: float | None) -> float | None:
    if first is None or last is None or not np.isfinite(last - first):
        return None
    return round(last - first, 3)


def _measure(values: Array) -> dict[str, float] | None:
    if not len(values):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        average, peak = float(values.mean()), float(values.max())
    return {"average": round(average, _DIGITS), "peak": round(peak, _DIGITS)} if np.isfinite(average) else None


def _total(values: Array) -> dict[str, float] | None:
    if not len(values):
        return None
    with np.errstate(over="ignore"):
        total = float(values.sum())
    return {"total": total} if np.isfinite(total) else None
