"""Draining: deliver one run that lies in a spool, whoever recorded it, until nothing is left or the time is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spool import Run, RunState, Spool, ownership
from spool.errors import Owned, SpoolError
from spool.recovery.recover import surviving_damage
from streaming.errors import BadArgument, GaveUp, Parked, StreamError, Transient, Unauthorized
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run, tell_recovered
from streaming.upload.life import tracker_is_gone
from streaming.upload.retry import persistently

if TYPE_CHECKING:
    from streaming.clients.connect import Clients

log = logging.getLogger(__name__)

BUSY_LOOK_S = 0.5  # how often it is asked whether another process has left an ended run


class Outcome(str, Enum):
    """What became of a run."""

    DELIVERED = "delivered"  # finished, the service has acknowledged it
    UPLOADED = "uploaded"  # everything that is there was sent; its tracker may still live, so it is not finished
    BUSY = "busy"  # another process delivers it
    WAITING = "waiting"  # the time was over
    PARKED = "parked"  # a person must decide
    TOKEN_REFUSED = "token refused"  # the service refuses the token


class Time(Protocol):
    """How long a drain may go on, and how it waits (`streaming.upload.wait.Watch`). `wait` raises GaveUp when it is over."""

    def wait(self, seconds: float) -> None: ...
    def has_time(self) -> bool: ...


def drain_run(
    path: Path,
    clients: Clients,
    time: Time,
    *,
    api_url: str,
    has_ended: bool = False,
    spares_recent: bool = False,
    anew: bool = False,
    waits_for_token: bool = True,
    report: Callable[[StreamError | None], None] = lambda _problem: None,
) -> Outcome:
    """Deliver the run at `path` as far as possible before its time is over.

    `has_ended`, `spares_recent`: as in `life.tracker_is_gone`. `anew`: register a parked run again,
    and try again what was rejected. `waits_for_token`: a refused token is tried again every 5 minutes. `report` gets what
    stands in the way, None when nothing does. Raises SpoolError, and BadArgument if the run was recorded for another
    service than `api_url`.
    """

    def work(spool: Spool) -> Outcome:
        _require_same_service(spool.run(), path, api_url)
        if anew:
            _begin_anew(spool)
        if tracker_is_gone(spool, has_ended=has_ended, spares_recent=spares_recent):
            end_dead_run(spool)
        return _drain(spool, clients, time, waits_for_token=waits_for_token, report=report)

    is_told = False
    while True:
        try:
            with ownership.own(path):
                return surviving_damage(path, work, report=tell_recovered)
        except Owned as owned:
            if (outcome := _outcome_elsewhere(path)) is not None:
                return outcome
            if not is_told:
                report(_still_tried(owned))
                is_told = True
        try:
            time.wait(BUSY_LOOK_S)
        except GaveUp:
            return Outcome.BUSY


def _still_tried(owned: Owned) -> Transient:
    return Transient(owned.message, cause="busy", hint="its uploader tries on for a while after the run's end")


def _outcome_elsewhere(path: Path) -> Outcome | None:
    """What a run that another process delivers has come to; None if it has ended, and that process may leave it soon."""
    with closing(Spool(path)) as spool:
        if spool.run().state is RunState.FINISHED:
            return Outcome.DELIVERED
        return None if spool.run().state is RunState.ENDED else Outcome.BUSY


def _require_same_service(run: Run, path: Path, api_url: str) -> None:
    """A spool from elsewhere must not decide where the token is sent; a forgotten setting must not lose the run."""
    if run.state is not RunState.FINISHED and run.api_url not in ("", api_url):
        raise BadArgument(
            f"run {path.stem} was recorded for {run.api_url}, not for {api_url}",
            hint="if you know that address, give it yourself: --api-url URL",  # its own word for it is not repeated as one
        )


def _begin_anew(spool: Spool) -> None:
    if spool.run().parked:
        spool.unpark()
    spool.retry_rejected()


def _drain(
    spool: Spool,
    clients: Clients,
    time: Time,
    *,
    waits_for_token: bool,
    report: Callable[[StreamError | None], None],
) -> Outcome:
    def note(problem: StreamError | None) -> None:
        with suppress(SpoolError):  # a full disk keeps this note out; it must not keep the rows in
            spool.note_problem(str(problem) if problem else None, cause=problem.cause if problem else None)
        report(problem)

    try:
        progress = persistently(
            lambda: delivery.deliver(spool, clients.service, clients.store, may_go_on=time.has_time),
            pause=time,
            report=note,
            progress=lambda: spool.marked_count,
            waits_for_token=lambda: waits_for_token,
        )
    except GaveUp:
        return Outcome.WAITING
    except Unauthorized as refused:
        note(refused)
        return Outcome.TOKEN_REFUSED
    except Parked as parked:
        report(parked)
        return Outcome.PARKED
    return {
        delivery.Progress.COMPLETE: Outcome.DELIVERED,
        delivery.Progress.WAITING_FOR_ROWS: Outcome.UPLOADED,
        delivery.Progress.INTERRUPTED: Outcome.WAITING,
    }[progress]
