"""HTML: one self-contained page with the charts of the server's run page, to look at or to send around."""

from __future__ import annotations

import json
import time
from typing import Any, BinaryIO

from spool import Run, RunState, Segment
from spool.model import iso_utc
from streaming.read.export import page_bundle
from streaming.read.export.chart_data import ChartNumbers
from streaming.read.export.rows import RunRows


def write(rows: RunRows, out: BinaryIO) -> None:
    """The page. Every row up to `chart_numbers.MOST_POINTS`; of more, average, minimum and maximum of short stretches."""
    numbers = ChartNumbers.read(rows)
    stretches = numbers.stretches()
    objects = rows.objects()
    payload = {
        "run": _run_json(rows.run, numbers, objects),
        "objects": [_object_json(segment) for segment in objects],
        "now": time.time(),
        "interval_s": numbers.interval_s,
        "columns": list(stretches.columns),
        "kinds": stretches.kinds,
        "count": len(stretches.times),
        "numbers": stretches.packed(),
    }
    out.write(page_bundle.page(json.dumps(payload)).encode())


def _run_json(run: Run, numbers: ChartNumbers, objects: list[Segment]) -> dict[str, Any]:
    """As the server answers `GET /runs/{id}`."""
    metadata = {**run.metadata, **(run.host_info or {}), **(run.cloud_info or {})}
    if isinstance(metadata.get("command"), list):
        metadata["command"] = json.dumps(metadata["command"])
    ended_at = None if run.ended_at is None else iso_utc(run.ended_at)
    return {
        "run_id": run.registration.run_id if run.registration else run.spool_id,
        "state": "recording" if run.state is RunState.OPEN else run.run_status or "finished",
        **{name: metadata.get(name) for name in ("project_name", "job_name", "tags")},
        "host": metadata.get("host_hostname") or metadata.get("host_name"),
        "started_at": iso_utc(run.started_at),
        "ended_at": ended_at,
        "duration_s": None if run.ended_at is None else run.ended_at - run.started_at,
        "exit_code": run.exit_code,
        "row_count": numbers.row_count,
        "last_row_at": numbers.last_time,
        "metadata": {name: value for name, value in metadata.items() if value is not None},
        "data_source": "s3" if objects else "inline" if run.state is RunState.FINISHED else None,
        "statistics": {"first_timestamp": numbers.first_time, "last_timestamp": numbers.last_time, **numbers.figures()},
        "gaps": [],
        "object_count": len(objects),
        "size_bytes": None,
        "missing_count": 0,
        "unreadable_count": 0,
    }


def _object_json(segment: Segment) -> dict[str, Any]:
    return {
        "key": segment.uri or "",
        "seq": segment.seq,
        "size_bytes": None,  # of the compressed object: a spool does not keep it
        "row_count": segment.row_count,
        "sha256": segment.sha256,
        "digest_matches": None,
        "missing": False,
        "error": None,
    }
