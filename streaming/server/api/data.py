"""What the pages (and scripts) read: the list of runs, one run, its objects, its columns over time, its CSV."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from streaming.server.api.login import Viewer
from streaming.server.api.run_json import SORT_KEYS, ListQuery, view_of
from streaming.server.api.runs import find_run
from streaming.server.metrics.csv import stream_csv
from streaming.server.metrics.downsample import Window, series
from streaming.server.metrics.frames import Frame
from streaming.server.metrics.reader import Reading, RunReader, keys_of
from streaming.server.metrics.statistics import figures_of
from streaming.server.storage.object_names import find_gaps, order_of, parse_name
from streaming.server.storage.runs import Run, RunStore

router = APIRouter(tags=["Data"])

State = Literal["registered", "recording", "silent", "finished", "failed"]
Offset = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Sort = Annotated[str, Query(pattern=f"^-?({'|'.join(SORT_KEYS)})$")]
Seconds = Annotated[float | None, Query(description="Seconds since the epoch.", allow_inf_nan=False)]


@router.get("/runs")
def list_runs(
    request: Request,
    viewer: Viewer,
    q: Annotated[str, Query(max_length=200, description="Part of a name, tag or id.")] = "",
    state: Annotated[list[State] | None, Query()] = None,
    project: str = "",
    job: str = "",
    tag: Annotated[str, Query(description="key=value")] = "",
    sort: Sort = "-registered_at",
    offset: Offset = 0,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Runs as lines of a table. `counts` are by state, before `state` is applied."""
    runs: RunStore = request.app.state.runs
    reader: RunReader = request.app.state.reader
    now = datetime.now(timezone.utc)
    views = [view_of(run, reader, now=now) for run in runs.of_token(viewer.id)]
    found = ListQuery(text=q, project=project, job=job, tag=tag, sort=sort).select(views)
    counts: dict[str, int] = {}
    for view in found:
        counts[view["state"]] = counts.get(view["state"], 0) + 1
    chosen = [view for view in found if not state or view["state"] in state]
    return {
        "runs": chosen[offset : offset + limit],
        "total": len(chosen),
        "counts": counts,
        "projects": sorted({view["project_name"] for view in views if view["project_name"]}),
        "offset": offset,
        "limit": limit,
    }


@router.get("/runs/{run_id}")
def get_run(request: Request, viewer: Viewer, run_id: str) -> dict[str, Any]:
    """Everything about a run but its rows and objects."""
    run = find_run(request, viewer, run_id)
    reading = _read(request, run)
    keys = {frame.key for frame in reading.frames}
    missing = [key for key in keys_of(run) if key not in keys]
    return {
        **view_of(run, request.app.state.reader, now=datetime.now(timezone.utc)),
        "metadata": run.metadata,
        "data_source": run.data_source,
        "statistics": figures_of(reading.rows),
        "complete": reading.is_complete,
        "columns": reading.rows.names,
        "gaps": [[gap.first, gap.last] for gap in find_gaps(keys)],
        "missing_count": len(missing),
        "unreadable_count": sum(frame.error is not None for frame in reading.frames),
        "size_bytes": sum(frame.size_bytes for frame in reading.frames),
    }


@router.get("/runs/{run_id}/objects")
def list_objects(
    request: Request, viewer: Viewer, run_id: str, offset: Offset = 0, limit: Limit = 100
) -> dict[str, Any]:
    """The run's objects in order. `listed`: the finish names it (None before); `missing`: it does, yet S3 has none."""
    run = find_run(request, viewer, run_id)
    frames = {frame.key: frame for frame in _read(request, run).frames}
    listed = set(keys_of(run))
    keys = sorted(frames.keys() | listed, key=order_of)
    return {
        "objects": [_object(key, frames.get(key), run, listed) for key in keys[offset : offset + limit]],
        "total": len(keys),
        "gaps": [[gap.first, gap.last] for gap in find_gaps(frames)],
        "offset": offset,
        "limit": limit,
    }


@router.get("/runs/{run_id}/series")
def get_series(
    request: Request,
    viewer: Viewer,
    run_id: str,
    columns: Annotated[str, Query(description="Names, separated by commas.", max_length=10_000)],
    start: Annotated[Seconds, Query(alias="from")] = None,
    end: Annotated[Seconds, Query(alias="to")] = None,
    points: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """Columns over time, reduced to at most `points` stretches with the minimum, maximum and mean of each."""
    run = find_run(request, viewer, run_id)
    rows = _read(request, run).rows
    names = list(dict.fromkeys(name for name in columns.split(",") if name))
    unknown = [name for name in names if name not in rows.names]
    answer = series(rows, [name for name in names if name in rows.names], Window(start, end, points))
    return {"run_id": run_id, "total_row_count": rows.row_count, "unknown_columns": unknown, **answer}


@router.get("/runs/{run_id}/csv")
def download_csv(request: Request, viewer: Viewer, run_id: str) -> StreamingResponse:
    """All rows as one CSV with one header line, as they were recorded."""
    run = find_run(request, viewer, run_id)
    reading = _read(request, run)
    return StreamingResponse(
        stream_csv(run, reading.rows, request.app.state.runs, request.app.state.objects),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="run-{run.run_id}.csv"',
            "X-Complete": "true" if reading.is_complete else "false",
        },
    )


def _read(request: Request, run: Run) -> Reading:
    reader: RunReader = request.app.state.reader
    return reader.read(run)


def _object(key: str, frame: Frame | None, run: Run, listed: set[str]) -> dict[str, Any]:
    name = parse_name(key)
    times = frame.time_range if frame else None
    return {
        "key": key,
        "seq": name.seq,
        "size_bytes": frame.size_bytes if frame else None,
        "row_count": frame.row_count if frame else None,
        "etag": frame.etag if frame else None,
        "sha256": frame.sha256 if frame else None,
        "digest_matches": frame.sha256.startswith(name.digest) if frame and name.digest and frame.sha256 else None,
        "uploaded_at": frame.uploaded_at if frame else None,
        "first_timestamp": times[0] if times else None,
        "last_timestamp": times[1] if times else None,
        "listed": key in listed if run.is_finished else None,
        "missing": frame is None,
        "error": frame.error if frame else None,
    }
