"""What a run's owner changes at its page: title, notes, a link that shows it to others, or that it is deleted."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Request, Response
from pydantic import Field, StringConstraints

from streaming.server.api.guarded_route import ChangingRoute, current_token
from streaming.server.api.runs import find_run
from streaming.server.api.schemas import Closed
from streaming.server.metrics.reader import RunReader
from streaming.server.storage.objects import Bucket
from streaming.server.storage.runs import RunStore
from streaming.server.storage.sessions import SessionStore
from streaming.server.storage.tokens import KnownToken

router = APIRouter(route_class=ChangingRoute, tags=["Changes"])

Owner = Annotated[KnownToken, Depends(current_token)]


class Edit(Closed):
    """What is left out stays; an empty text takes it away."""

    title: (
        Annotated[str, StringConstraints(max_length=200, strip_whitespace=True, pattern=r"^[^\x00-\x1f]*$")] | None
    ) = None
    notes: Annotated[str, StringConstraints(max_length=4000)] | None = None


class Link(Closed):
    """How long the link is good for."""

    hours: Annotated[int, Field(ge=1, le=24 * 90)] = 24 * 7


@router.patch("/runs/{run_id}")
def edit_run(request: Request, owner: Owner, run_id: str, body: Annotated[Edit, Body()] = Edit()) -> dict[str, Any]:  # noqa: B008
    """Give the run a title by which it is shown and found, and notes."""
    run = find_run(request, owner, run_id)
    runs: RunStore = request.app.state.runs
    runs.changes.annotate(run.run_id, title=body.title, notes=body.notes)
    return {"run_id": run.run_id, "notes": runs.changes.notes(run.run_id)}


@router.delete("/runs/{run_id}", status_code=204)
def delete_run(request: Request, owner: Owner, run_id: str) -> Response:
    """Delete the run and its objects in S3. 409 while it goes on.

    Killed in between: the run is there without some of its objects, and can be deleted again.
    """
    run = find_run(request, owner, run_id)
    runs: RunStore = request.app.state.runs
    reader: RunReader = request.app.state.reader
    line = runs.listing.line(run.run_id, time.time(), reader.read(run).rows.seen)
    if line["state"] in ("recording", "registered"):
        raise HTTPException(409, "The run goes on: it can be deleted when it has ended, or has long been silent.")
    bucket: Bucket = request.app.state.objects
    bucket.delete(f"{run.prefix}/")
    runs.changes.delete(run.run_id)
    reader.drop(run)
    return Response(status_code=204)


@router.post("/runs/{run_id}/share", status_code=201)
def share_run(request: Request, owner: Owner, run_id: str, body: Annotated[Link, Body()] = Link()) -> dict[str, Any]:  # noqa: B008
    """A link that shows this one run, and changes nothing, until it expires; to whoever holds it."""
    run = find_run(request, owner, run_id)
    sessions: SessionStore = request.app.state.sessions
    lifetime = timedelta(hours=body.hours)
    secret = sessions.share(owner, run.run_id, lifetime)
    return {"page": f"/shared/{run.run_id}#{secret}", "expires_in_s": int(lifetime.total_seconds())}
