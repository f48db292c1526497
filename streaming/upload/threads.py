"""The threads that take runs' turns, each at most one at a time: a run that hangs holds one of them until its deadline."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from streaming.upload.job import Job
from streaming.upload.model import Terms, Turn, Wishes

THREADS = 4


class Threads:
    """A handful, started when they are needed. `wake` is called from them when a turn is over."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ready: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: deque[tuple[Job, Wishes, Turn]] = deque()
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
        turn = job.delivery.turn(terms, wishes, is_adopted=is_adopted, may_go_on=may_go_on)
        self._done.append((job, wishes, turn))
        self._wake()

    def finished(self) -> Iterator[tuple[Job, Wishes, Turn]]:
        """Turns that are over: whose, the wishes that they began with, and how they went."""
        while self._done:
            job, wishes, turn = self._done.popleft()
            job.is_running = False
            self._running_count -= 1
            yield job, wishes, turn

    def close(self) -> None:
        """Those that are amid a request end with the process."""
        for _ in self._threads:
            self._ready.put(None)
