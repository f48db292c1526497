"""Which job a run is a part of, and the runs of a job as one line of the list. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from streaming.collect.need import Need

Line = dict[str, Any]
LONGEST_ID = 200
CURVE_POINTS = 60
# A job's small curve is drawn after at most some 100 of its runs, evenly chosen: reading all of a thousand takes long.
_OF_JOB = "OVER (PARTITION BY token_id, group_key ORDER BY id"
SOME_CURVES = (
    f"CASE WHEN row_number() {_OF_JOB}) % max(1, count(*) {_OF_JOB} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED"
    " FOLLOWING) / 100) = 0 THEN curves END"
)


def folded(lines: Iterable[Line], members: Iterable[Mapping[str, Any]], *, now: float) -> list[Line]:
    """The lines, each that stands for several runs of a job with `run_count`, `states` and what they are together."""
    runs_of: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for run in members:
        runs_of[run["token_id"], run["job_id"]].append(run)
    by_run = {run["run_id"]: runs for runs in runs_of.values() for run in runs}
    return [
        {**line, **_together(runs, now)} if len(runs := by_run.get(line["run_id"], ())) > 1 else line for line in lines
    ]


def _together(runs: Iterable[Mapping[str, Any]], now: float) -> Line:
    """From the first start to the last end; CPU time over that; the memory of the run that took most."""
    runs = list(runs)
    started_at = min(run["started_at"] for run in runs)
    is_over = all(run["ended_at"] is not None for run in runs)
    ended_at = max(run["ended_at"] or now for run in runs)
    duration_s = max(0.0, ended_at - started_at)
    cpu_s = [run["average_cpu"] * run["duration_s"] for run in runs if run["average_cpu"] is not None]
    codes = [run["exit_code"] for run in runs if run["exit_code"] is not None]
    return {
        "run_count": len(runs),
        "states": dict(Counter(run["state"] for run in runs)),
        "started_at": started_at,
        "ended_at": ended_at if is_over else None,
        "duration_s": round(duration_s, 3),
        "exit_code": max(codes, key=abs, default=None),
        "row_count": sum(run["row_count"] or 0 for run in runs),
        "object_count": sum(run["object_count"] or 0 for run in runs),
        "last_row_at": max((run["last_row_at"] for run in runs if run["last_row_at"] is not None), default=None),
        "average_cpu": sum(cpu_s) / duration_s if cpu_s and duration_s else None,
        "peak_memory_mib": max(
            (run["peak_memory_mib"] for run in runs if run["peak_memory_mib"] is not None), default=None
        ),
        "curves": {"cpu": _sum_of_curves(runs)},
    }


def _sum_of_curves(runs: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """CPU of all runs together, from the first row to the last; None where no run has rows."""
    with_rows = [run for run in runs if run["last_row_at"] is not None]
    drawn = [run for run in with_rows if run["curves"]]
    if not drawn:
        return []
    first, last = min(run["started_at"] for run in drawn), max(run["last_row_at"] for run in drawn)
    times = np.linspace(first, last, 2 * CURVE_POINTS + 1)[1::2]
    total, is_known = np.zeros(CURVE_POINTS), np.zeros(CURVE_POINTS, dtype=bool)
    for run in drawn:
        curve = np.array(json.loads(run["curves"])["cpu"] or [None], dtype=float)
        share = (times - run["started_at"]) / ((run["last_row_at"] - run["started_at"]) or 1.0)
        values = curve[np.clip((share * len(curve)).astype(int), 0, len(curve) - 1)]
        counts = (share >= 0) & (share <= 1) & np.isfinite(values)
        total[counts] += values[counts]
        is_known |= counts
    scaled = total * len(with_rows) / len(drawn)
    return [float(f"{value:.4g}") if known else None for value, known in zip(scaled, is_known, strict=True)]


def need_of(line: Line) -> Need:
    """What a run used, as far as the list knows."""
    first, last, cpus = line["started_at"], line["last_row_at"], line["cpu_99"]
    if cpus is None or last is None:
        return Need()
    peak_mib = line["peak_memory_mib"] or 0.0
    return Need.of(line["row_count"], cpus=cpus, peak_mib=peak_mib, first_at=first, last_at=last)


def id_of(metadata: dict[str, Any]) -> str | None:
    """The id of the job that the run is a part of, which its tag `job` tells."""
    tags = metadata.get("tags")
    found = tags.get("job") if isinstance(tags, dict) else None
    return None if found in (None, "") or isinstance(found, (dict, list)) else str(found)[:LONGEST_ID]


def group_key(job_id: str | None, run_id: str) -> str:
    return f"run {run_id}" if job_id is None else f"job {job_id}"
