"""What the pages (and scripts) read: the list of runs, one run, its objects, its columns over time, its CSV."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse

from spool.model import iso_utc
from streaming.collect.need import Used, told
from streaming.server.api.guarded_route import ViewedRoute
from streaming.server.api.login import Viewer
from streaming.server.api.runs import find_run
from streaming.server.errors import StoreUnavailable
from streaming.server.metrics.parse import ObjectFacts
from streaming.server.metrics.reader import Answer, Reading, RunReader, keys_of
from streaming.server.storage.jobs import LONGEST_ID, need_of
from streaming.server.storage.listing import SORT_KEYS, ListQuery
from streaming.server.storage.runs import RegisteredRun, RunStore
from streaming.tables.object_names import find_gaps, order_of, parse_name
from streaming.tables.series import Window, series

_MOMENTS = ("registered_at", "started_at", "ended_at", "last_row_at", "last_upload_at")
MOST_OF_A_JOB = 5000  # runs

router = APIRouter(route_class=ViewedRoute, tags=["Data"])

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
    fold: Annotated[bool, Query(description="The runs of a job as one line.")] = False,
    sort: Sort = "-registered_at",
    offset: Offset = 0,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Runs as lines of a table. `counts` are by state, before `state` is applied."""
    runs: RunStore = request.app.state.runs
    query = ListQuery(viewer.id, _now(), q, state or (), project, job, tag, fold, sort, offset, limit)
    page = runs.listing.page(query)
    return {
        "runs": [_line_json(line) for line in page.lines],
        "total": page.total,
        "counts": page.counts,
        "projects": page.projects,
        "offset": offset,
        "limit": limit,
    }


@router.get("/jobs")
def get_job(
    request: Request, viewer: Viewer, job_id: Annotated[str, Query(alias="id", min_length=1, max_length=LONGEST_ID)]
) -> dict[str, Any]:
    """All runs of a job, each with its curves. Read from the list alone: a thousand ranks are there at once."""
    runs: RunStore = request.app.state.runs
    lines = runs.listing.members(viewer.id, job_id, _now(), most=MOST_OF_A_JOB + 1)
    if not lines:
        raise HTTPException(404, "There is no such job.")
    shown = lines[:MOST_OF_A_JOB]
    return {
        "job_id": job_id,
        "runs": [_line_json(line) for line in shown],
        "is_cut": len(lines) > len(shown),
        "need": told(Used(line["run_id"], line, need_of(line)) for line in shown),
    }


@router.get("/runs/{run_id}")
def get_run(request: Request, viewer: Viewer, run_id: str) -> dict[str, Any]:
    """Everything about a run but its rows and objects."""
    run = find_run(request, viewer, run_id)
    return _using(request, run, lambda reading: _details(request, run, reading))


def _details(request: Request, run: RegisteredRun, reading: Reading) -> dict[str, Any]:
    objects = reading.rows.all_objects
    missing = [] if reading.is_outage else [key for key in keys_of(run) if key not in objects]
    return {
        **_line_json(request.app.state.runs.listing.line(run.run_id, _now(), reading.rows.seen)),
        "notes": request.app.state.runs.changes.notes(run.run_id),
        "metadata": run.metadata,
        "data_source": run.data_source,
        "statistics": reading.rows.figures,
        "need": told([Used(run.run_id, run.metadata, reading.rows.need)]),
        "complete": reading.is_complete,
        "columns": reading.rows.names,
        "gaps": [[gap.first, gap.last] for gap in find_gaps(objects)],
        "missing_count": len(missing),
        "unreadable_count": sum(facts.error is not None for facts in objects.values()),
        "size_bytes": sum(facts.size_bytes for facts in objects.values()),
    }


@router.get("/runs/{run_id}/objects")
def list_objects(
    request: Request, viewer: Viewer, run_id: str, offset: Offset = 0, limit: Limit = 100
) -> dict[str, Any]:
    """The run's objects in order. `listed`: the finish names it (None before); `missing`: it does, yet S3 has none."""
    run = find_run(request, viewer, run_id)
    reading = _using(request, run, _answered)
    objects, listed = reading.rows.all_objects, set(keys_of(run))
    keys = sorted(objects.keys() | listed, key=order_of)
    return {
        "objects": [_object(key, objects.get(key), run, listed) for key in keys[offset : offset + limit]],
        "total": len(keys),
        "gaps": [[gap.first, gap.last] for gap in find_gaps(objects)],
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
    names = list(dict.fromkeys(name for name in columns.split(",") if name))

    def drawn(reading: Reading) -> dict[str, Any]:
        rows = reading.rows
        unknown = [name for name in names if name not in rows.names]
        known = [name for name in names if name in rows.names]
        answer = series(rows.timestamps, rows.column, known, Window(start, end, points))
        return {"run_id": run_id, "total_row_count": rows.row_count, "unknown_columns": unknown, **answer}

    return _using(request, run, drawn)


@router.get("/runs/{run_id}/csv")
def download_csv(request: Request, viewer: Viewer, run_id: str) -> StreamingResponse:
    """All rows as one CSV with one header line, as they were recorded."""
    run = find_run(request, viewer, run_id)
    reading, text = _using(request, run, lambda reading: (_answered(reading), reading.rows.csv()))
    return StreamingResponse(
        text,
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="run-{run.run_id}.csv"',
            "X-Complete": "true" if reading.is_complete else "false",
        },
    )


def _line_json(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the list; times as ISO-8601 UTC."""
    shown = {name: value for name, value in line.items() if name not in ("silent_at", "id", "cpu_99")}
    return {**shown, **{name: None if line[name] is None else iso_utc(line[name]) for name in _MOMENTS}}


def _now() -> float:
    return datetime.now(timezone.utc).timestamp()


def _using(request: Request, run: RegisteredRun, ask: Callable[[Reading], Answer]) -> Answer:
    reader: RunReader = request.app.state.reader
    return reader.using(run, ask)


def _answered(reading: Reading) -> Reading:
    """Raises StoreUnavailable where it is not known what is missing: an outage is not a gap."""
    if reading.is_outage:
        raise StoreUnavailable("S3 does not answer, so that it is not known whether these are all rows.")
    return reading


def _object(key: str, facts: ObjectFacts | None, run: RegisteredRun, listed: set[str]) -> dict[str, Any]:
    name = parse_name(key)
    return {
        "key": key,
        "seq": name.seq,
        "size_bytes": facts.size_bytes if facts else None,
        "row_count": facts.row_count if facts else None,
        "etag": facts.etag if facts else None,
        "sha256": facts.sha256 if facts else None,
        "digest_matches": facts.sha256.startswith(name.digest) if facts and name.digest and facts.sha256 else None,
        "uploaded_at": facts.uploaded_at if facts else None,
        "first_timestamp": facts.first if facts else None,
        "last_timestamp": facts.last if facts else None,
        "listed": key in listed if run.is_finished else None,
        "missing": facts is None,
        "error": facts.error if facts else None,
    }
