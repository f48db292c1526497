"""The delivery of one run, turn by turn. A turn brings it at most one segment further; who calls does the waiting.

Knows no thread and no socket. A turn owns the run while it lasts, so that between two turns any other process may.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from spool import Run, RunState, Spool, SpoolError, ownership, queries
from spool.errors import Owned, SpoolFull
from spool.recovery.recover import surviving_damage
from streaming.collect import host
from streaming.errors import BadArgument, Defect, NoRoom, Parked, StreamError, Transient, Unauthorized, Unreachable
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run, remove_if_old, tell_recovered
from streaming.upload.life import tracker_is_gone
from streaming.upload.model import NO_WISHES, Outcome, Terms, Turn, Wishes
from streaming.upload.reachability import Reached
from streaming.upload.retry import Attempts

BUSY_LOOK_S = 0.5  # how often it is asked whether another process has left the run
TURN_S = 5.0  # refused segments are many requests and no progress: a turn goes no further after this
SAY_AGAIN_S = 600.0  # the same problem is logged this often

log = logging.getLogger(__name__)


class RunDelivery:
    """One run's delivery: what is known of it between two turns."""

    def __init__(
        self, path: Path, reached: Callable[[Terms], Reached], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`reached`: the clients for terms."""
        self.path = path
        self._reached = reached
        self._clock = clock
        self._attempts = Attempts()
        self._segment_size = delivery.SegmentSize()
        self._sent_before: tuple[int, int] | None = None
        self._sent = (0, 0)
        self._said = ""
        self._say_again_at = 0.0
        self._defects: set[str] = set()  # whose tracebacks are in the log
        self._clients: Reached | None = None
        self._run_id = ""

    def forget(self) -> None:
        """The run is delivered, or given up: its clients keep nothing of it."""
        if self._clients is not None:
            self._clients.forget(self._run_id)

    def begin_anew(self) -> None:
        """Whatever went wrong before says nothing any more."""
        self._attempts.begin_anew()

    def turn(
        self,
        terms: Terms,
        wishes: Wishes = NO_WISHES,
        *,
        is_adopted: bool = False,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> Turn:
        """Bring the run further. Never raises; may be killed at any line.

        `is_adopted`: nobody asked for it, so only what was left behind is touched. `may_go_on` is asked between segments.
        """
        work = partial(self._work, terms=terms, wishes=wishes, is_adopted=is_adopted, may_go_on=may_go_on)
        try:
            with ownership.own(self.path):
                return surviving_damage(self.path, work, report=tell_recovered)
        except Owned as owned:
            return self._turn(Outcome.NOT_OURS) if is_adopted else self._elsewhere(owned)
        except (SpoolError, StreamError) as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 - a defect that one run brings to light must not stop the others
            self._tell_defect(error)
            return self._failed(Defect(f"defect: {error!r}", cause=Defect.cause))

    def _work(
        self, spool: Spool, *, terms: Terms, wishes: Wishes, is_adopted: bool, may_go_on: Callable[[], bool]
    ) -> Turn:
        run = spool.run()
        if run.state is RunState.FINISHED:
            if is_adopted:
                remove_if_old(spool)
            return self._turn(Outcome.DELIVERED, answer=run.finish_answer)
        if is_adopted and not _is_left_behind(spool, run, terms):
            return self._turn(Outcome.NOT_OURS)
        try:
            _grant(wishes, spool, terms)
            if tracker_is_gone(spool, has_ended=wishes.has_ended, spares_recent=wishes.spares_recent):
                end_dead_run(spool)
            return self._deliver(spool, terms, may_go_on)
        except StreamError as error:
            return self._failed(error, spool)
        except SpoolFull as full:  # passes, as an outage does: what was stored meanwhile is stored again, the same
            return self._failed(NoRoom(full.message, cause="disk full", hint=full.hint), spool)

    def _deliver(self, spool: Spool, terms: Terms, may_go_on: Callable[[], bool]) -> Turn:
        reached = self._reached(terms)
        if reached is not self._clients:
            self.forget()
            self._clients = reached
        host.describe(spool)
        self._count_sent(spool)
        until = self._clock() + TURN_S

        def has_more() -> bool:
            return may_go_on() and not spool.marked_count and self._clock() < until

        try:
            progress = delivery.deliver(spool, reached, reached, may_go_on=has_more, size=self._segment_size)
        finally:
            if spool.marked_count:
                self._attempts.begin_anew()
            self._count_sent(spool)
            self._run_id = self._registered_as(spool)
        self._attempts.begin_anew()
        self._note(spool, None)
        run = spool.run()
        if progress is not delivery.Progress.COMPLETE:
            has_ended = run.state is not RunState.OPEN  # while its rows went out: by others, who may not come back
            goes_on = has_ended or progress is delivery.Progress.INTERRUPTED
            return self._turn(Outcome.GOES_ON if goes_on else Outcome.UPLOADED, is_open=not has_ended)
        return self._turn(Outcome.DELIVERED, answer=run.finish_answer)

    def _count_sent(self, spool: Spool) -> None:
        with suppress(SpoolError):
            sent = queries.sent_amount(spool.connection)
            self._sent_before = self._sent_before or sent
            self._sent = (sent[0] - self._sent_before[0], sent[1] - self._sent_before[1])

    def _registered_as(self, spool: Spool) -> str:
        with suppress(SpoolError):
            registration = spool.run().registration
            return registration.run_id if registration else ""
        return self._run_id

    def _elsewhere(self, owned: Owned) -> Turn:
        """Another process delivers it: it may have delivered it, or leave it soon."""
        with suppress(SpoolError), closing(Spool(self.path)) as spool:
            run = spool.run()
            if run.state is RunState.FINISHED:
                return self._turn(Outcome.DELIVERED, answer=run.finish_answer)
            problem = Transient(owned.message, cause="busy")
            return self._turn(Outcome.BUSY, BUSY_LOOK_S, problem, is_open=run.state is RunState.OPEN)
        return self._turn(Outcome.BUSY, BUSY_LOOK_S)

    def _failed(self, error: StreamError | SpoolError, spool: Spool | None = None) -> Turn:
        """What an error means for the run, kept for people who look into the spool."""
        if isinstance(error, StreamError) and spool is not None:
            self._note(spool, error)
        is_open = False
        with suppress(SpoolError):
            is_open = spool is not None and spool.run().state is RunState.OPEN
        if isinstance(error, Parked):
            return self._turn(Outcome.PARKED, problem=error)
        if isinstance(error, (Transient, Unauthorized)):
            is_paced = isinstance(error, Unreachable)  # by its address, for all runs alike
            wait_s = getattr(error, "retry_after_s", None) if is_paced else None
            wait_s = self._attempts.failed(error) if wait_s is None else wait_s
            outcome = Outcome.TOKEN_REFUSED if isinstance(error, Unauthorized) else Outcome.WAITING
            return self._turn(outcome, wait_s, error, is_open=is_open)
        return self._turn(Outcome.ERROR, problem=error, is_open=is_open)

    def _note(self, spool: Spool, problem: StreamError | None) -> None:
        """Tell the log, when the problem changes or after a while, and people who look into the spool."""
        text, now = str(problem or ""), self._clock()
        if text and (text != self._said or now >= self._say_again_at):
            log.warning("delivery.delayed: %s: %s", self.path.stem, text)
            self._say_again_at = now + SAY_AGAIN_S
        self._said = text
        if isinstance(problem, (Parked, BadArgument)):
            return
        with suppress(SpoolError):  # a full disk keeps this note out; it must not keep the rows in
            spool.note_problem(text or None, cause=problem.cause if problem else None)

    def _tell_defect(self, error: Exception) -> None:
        """Where it is from is told once; it may come back at every turn for days."""
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {innermost.name}"
        log.error("delivery.defect: %s: %s", self.path.stem, kind, exc_info=kind not in self._defects)
        self._defects.add(kind)

    def _turn(
        self,
        outcome: Outcome,
        wait_s: float = 0.0,
        problem: StreamError | SpoolError | None = None,
        *,
        is_open: bool = False,
        answer: dict[str, Any] | None = None,
    ) -> Turn:
        rows, csv_bytes = self._sent
        return Turn(outcome, wait_s, problem, is_open, rows, csv_bytes, answer)


def _is_left_behind(spool: Spool, run: Run, terms: Terms) -> bool:
    is_for_us = run.api_url in ("", terms.api_url) and spool.is_meant_for(terms.token)
    return is_for_us and not run.parked and (run.state is not RunState.OPEN or tracker_is_gone(spool))


def _grant(wishes: Wishes, spool: Spool, terms: Terms) -> None:
    """What a person asked for. Raises BadArgument: a spool from elsewhere must not decide where the token is sent, and
    a forgotten setting must not lose the run."""
    run = spool.run()
    if run.api_url not in ("", terms.api_url):
        if not wishes.anywhere:
            raise BadArgument(
                f"run {spool.path.stem} was recorded for {run.api_url}, not for {terms.api_url}",
                hint="if you know that address, give it yourself: --api-url URL; to deliver here all the same: --to URL",
            )
        spool.readdress(terms.api_url, terms.s3_endpoint_url)
    if wishes.anew:
        if run.parked:
            spool.unpark()
        spool.retry_rejected()
