"""The threads that take runs' turns, each at most one at a time: a run that hangs holds one of them until its deadline."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from streaming.upload.job import Job
from streaming.upload.model import Terms, Turn, Wishes

THREADS = 6  # a small run is two round trips: they overlap; six segments in hand at once are 90 MB
_TOLD_OTHERWISE = ("delivery.delayed", "run.tracker_died")


class _Heard(logging.Handler):
    """Warnings of a turn, for those who wait for its run: the log tells them to nobody in particular."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    @contextmanager
    def by_this_thread(self) -> Iterator[list[str]]:
        lines: list[str] = []
        self._of_thread.lines = lines
        try:
            yield lines
        finally:
            self._of_thread.lines = None

    def emit(self, record: logging.LogRecord) -> None:
        lines = getattr(self._of_thread, "lines", None)
        if lines is not None and record.msg.partition(":")[0] not in _TOLD_OTHERWISE:
            lines.append(record.getMessage())


class Threads:
    """A handful, started when they are needed. `wake` is called from them when a turn is over."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ready: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: deque[tuple[Job, Wishes, Turn, list[str]]] = deque()
        self._heard = _Heard()
        for package in ("streaming", "spool"):
            logging.getLogger(package).addHandler(self._heard)
        self._threads: list[threading.Thread] = []
        self._running_count = 0

    @property
    def have_room(self) -> bool:
        return self._running_count < THREADS

    def start(self, job: Job, *, may_go_on: Callable[[], bool]) -> None:
        """Begin the job's next turn, on the terms that it has now."""
        job.is_running = True
        self._running_count += 1
        if len(self._threads) < self._running_count:
            thread = threading.Thread(target=self._work, name="delivery", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._ready.put(partial(self._take_turn, job, job.terms, job.wishes, job.is_adopted, may_go_on))

    def _work(self) -> None:
        while (take_turn := self._ready.get()) is not None:
            take_turn()

    def _take_turn(
        self, job: Job, terms: Terms, wishes: Wishes, is_adopted: bool, may_go_on: Callable[[], bool]
    ) -> None:
        with self._heard.by_this_thread() as warnings:
            turn = job.delivery.turn(terms, wishes, is_adopted=is_adopted, may_go_on=may_go_on)
        self._done.append((job, wishes, turn, warnings))
        self._wake()

    def finished(self) -> Iterator[tuple[Job, Wishes, Turn, list[str]]]:
        """Turns that are over: whose, the wishes that they began with, how they went, and what was warned of."""
        while self._done:
            done = self._done.popleft()
            done[0].is_running = False
            self._running_count -= 1
            yield done

    def close(self) -> None:
        """Those that are amid a request end with the process."""
        for _ in self._threads:
            self._ready.put(None)
