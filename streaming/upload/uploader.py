"""The uploader: the child process that delivers one run while it is recorded, and what dead runs left behind.

A loop around `delivery.deliver` that owns waiting, stopping and retrying. May be killed anywhere: the tracker starts
another, and delivery goes on from what the spool says.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from spool import RunState, Spool, ownership, queries
from spool.errors import Owned, SpoolError
from spool.recovery.recover import surviving_damage
from streaming.clients.connect import Clients
from streaming.collect import host
from streaming.errors import GaveUp, StreamError, Unauthorized
from streaming.processes.system import seconds_since_boot
from streaming.upload import delivery
from streaming.upload.adoption import Adoption, end_dead_run, tell_recovered
from streaming.upload.retry import persistently
from streaming.upload.wait import Watch

SAY_AGAIN_S = 600.0  # the same problem is logged this often
SUSPENDED_S = 60.0  # asleep for longer: connections are dead

log = logging.getLogger(__name__)


def main(order: dict[str, Any]) -> int:
    """The child's entry. Exit codes: 0 done or another uploader works, 3 something is left, 1 a defect."""
    start_logging(int(order["log_level"]))
    spool_path = Path(order["spool_path"])
    try:
        with ownership.own(spool_path):
            return surviving_damage(spool_path, partial(_deliver_own_run, order=order), report=tell_recovered)
    except Owned as owned:
        log.info("uploader.not_needed: %s", owned.message)
        return 0
    except (SpoolError, StreamError) as error:
        log.error("uploader.stopped: %s", error)
        return 3


def start_logging(level: int) -> None:
    """Our own lines to stderr, which is the run's log file. Others' from warnings on: at DEBUG botocore tells its keys."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for package in ("streaming", "spool"):
        logging.getLogger(package).setLevel(level)


def _deliver_own_run(spool: Spool, order: dict[str, Any]) -> int:
    watch = Watch(orders=0, tracker=spool.run().tracker)
    watch.listen()
    clients = Clients.connect(order["token"], api_url=order["api_url"], s3_endpoint_url=order["s3_endpoint_url"])
    adoption = Adoption(spool.path.parent, order["token"], clients, api_url=order["api_url"])
    loop = Loop(spool, clients, watch, adoption, linger_s=order["linger_s"])
    try:
        loop.run(upload_interval_s=order["upload_interval_s"])
    except GaveUp as end:
        log.warning("uploader.gave_up: %s (%d row(s))", end.message, queries.backlog(spool.connection).row_count)
        return 3
    except Unauthorized as refused:
        loop.report(refused)
        return 3
    _say_done()
    adoption.go_on(watch.has_time)
    return 0


def _say_done() -> None:
    """Close the pipe that tells the tracker that its run is delivered: whatever follows is for other runs."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


class Loop:
    """Cycles of delivery for a run whose tracker may be alive: register at once, then upload at every interval."""

    def __init__(
        self,
        spool: Spool,
        clients: Clients,
        watch: Watch,
        adoption: Adoption,
        *,
        linger_s: float,
        clock: Callable[[], float] = seconds_since_boot,
        awake_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds, those asleep too, and never jumps back; `awake_clock` leaves out those asleep."""
        self._spool = spool
        self._clients = clients
        self._watch = watch
        self._adoption = adoption
        self._linger_s = linger_s
        self._said = ""
        self._say_again_at = 0.0
        self._woken_count = 0
        self._clock = clock
        self._awake_clock = awake_clock
        self._asleep_s = clock() - awake_clock()

    def run(self, *, upload_interval_s: float) -> None:
        """Until the run is delivered. Raises GaveUp when the time is over, Parked if the run needs a person."""
        next_upload_at = self._clock() + upload_interval_s
        host.describe(self._spool)
        self._persistently(self._register)
        while True:
            self._adoption.go_on(partial(self._is_idle_before, next_upload_at))
            self._wait_until(next_upload_at)
            next_upload_at = max(next_upload_at, self._clock()) + upload_interval_s
            if self._persistently(self._deliver) is delivery.Progress.COMPLETE:
                return

    def wait(self, seconds: float) -> None:
        """The pause of the retry policy: afterwards, look at the tracker and drop what a suspension broke."""
        self._watch.wait(seconds)
        asleep_s = self._clock() - self._awake_clock()
        slept_s, self._asleep_s = asleep_s - self._asleep_s, asleep_s
        if slept_s > SUSPENDED_S:
            log.warning("machine.slept: for about %.0f s; connections are dropped", slept_s)
            self._clients.reset()
            self._woken_count += 1

    def achieved(self) -> int:
        """Grows with every segment sent, and with every awakening: then a backoff begins anew."""
        return self._spool.marked_count + self._woken_count

    def _is_idle_before(self, at: float) -> bool:
        return self._clock() < at and self._spool.run().state is RunState.OPEN

    def _wait_until(self, at: float) -> None:
        if self._spool.run().state is RunState.OPEN:
            self.wait(max(0.0, at - self._clock()))

    def _persistently(self, step: Any) -> Any:
        return persistently(
            step, pause=self, report=self.report, progress=self.achieved, waits_for_token=self._is_recorded
        )

    def _is_recorded(self) -> bool:
        """Whether rows still come. Once the run has ended, another token can only come with a drain: make way for it."""
        return self._spool.run().state is RunState.OPEN

    def _register(self) -> None:
        self._look_at_tracker()
        delivery.ensure_registered(self._spool, self._clients.service, self._clients.store)

    def _deliver(self) -> delivery.Progress:
        self._look_at_tracker()
        service, store = self._clients.service, self._clients.store
        progress = delivery.deliver(self._spool, service, store, may_go_on=self._watch.may_go_on)
        if progress is delivery.Progress.INTERRUPTED:
            self._watch.require_time()
        return progress

    def _look_at_tracker(self) -> None:
        """End a run whose tracker is gone; from its end on, delivery is bounded in time."""
        if self._watch.tracker_has_died():
            self._watch.limit(self._linger_s)  # whatever keeps us from ending the run
            end_dead_run(self._spool)
            self._watch.forget_tracker()
        if self._spool.run().state is not RunState.OPEN:
            self._watch.limit(self._linger_s)

    def report(self, problem: StreamError | None) -> None:
        """Tell the log, when the problem changes or after a while, and people who look into the spool."""
        text, now = str(problem or ""), self._clock()
        if text and (text != self._said or now >= self._say_again_at):
            log.warning("delivery.delayed: %s", text)
            self._say_again_at = now + SAY_AGAIN_S
        self._said = text
        with suppress(SpoolError):  # a full disk keeps this note out; it must not keep the rows in
            self._spool.note_problem(text or None, cause=problem.cause if problem else None)
