"""Draining: deliver one run that lies in a spool, whoever recorded it, until nothing is left or the time is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from pathlib import Path

from spool import Run, RunState, Spool, directory
from spool.errors import Owned
from streaming import delivery
from streaming.clients import Clients
from streaming.dead_runs import end_dead_run, tracker_is_gone
from streaming.errors import BadArgument, GaveUp, Parked
from streaming.retry import persistently
from streaming.watch import Watch

log = logging.getLogger(__name__)


class Outcome(str, Enum):
    """What became of a run."""

    DELIVERED = "delivered"  # finished, the service has acknowledged it
    UPLOADED = "uploaded"  # everything that is there was sent; its tracker may still live, so it is not finished
    BUSY = "busy"  # another process delivers it
    WAITING = "waiting"  # the time was over
    PARKED = "parked"  # a person must decide


def drain_run(
    path: Path,
    clients: Clients,
    watch: Watch,
    *,
    api_url: str,
    has_ended: bool = False,
    anew: bool = False,
    report: Callable[[str | None], None] = lambda _problem: None,
) -> Outcome:
    """Deliver the run at `path` as far as possible before the watch's deadline.

    `has_ended`: the user says that the tracker is gone, although it ran elsewhere. `anew`: register a parked run again,
    and try again what was rejected. `report` gets what stands in the way. Raises SpoolError, Unauthorized, and
    BadArgument if the run was recorded for another service than `api_url`.
    """
    try:
        with directory.ownership(path), closing(Spool(path)) as spool:
            _require_same_service(spool.run(), path, api_url)
            if anew:
                _begin_anew(spool)
            return _drain(spool, clients, watch, has_ended=has_ended, report=report)
    except Owned:
        return Outcome.BUSY


def _require_same_service(run: Run, path: Path, api_url: str) -> None:
    """A spool from elsewhere must not decide where the token is sent; a forgotten setting must not lose the run."""
    if run.state is not RunState.FINISHED and run.api_url not in ("", api_url):
        raise BadArgument(
            f"run {path.stem} was recorded for {run.api_url}, not for {api_url}",
            hint=f"if that is where it belongs: SENTINEL_API_URL={run.api_url} tracker-stream drain {path.stem}",
        )


def _begin_anew(spool: Spool) -> None:
    if spool.run().parked:
        spool.unpark()
    spool.retry_rejected()


def _drain(
    spool: Spool,
    clients: Clients,
    watch: Watch,
    *,
    has_ended: bool,
    report: Callable[[str | None], None],
) -> Outcome:
    if has_ended or tracker_is_gone(spool):
        end_dead_run(spool)

    def note(problem: str | None) -> None:
        spool.note_problem(problem)
        report(problem)

    try:
        progress = persistently(
            lambda: delivery.deliver(spool, clients.service, clients.store, may_go_on=watch.has_time),
            pause=watch,
            report=note,
            progress=lambda: spool.marked_count,
        )
    except GaveUp:
        return Outcome.WAITING
    except Parked as parked:
        report(str(parked))
        return Outcome.PARKED
    return {
        delivery.Progress.COMPLETE: Outcome.DELIVERED,
        delivery.Progress.WAITING_FOR_ROWS: Outcome.UPLOADED,
        delivery.Progress.INTERRUPTED: Outcome.WAITING,
    }[progress]
