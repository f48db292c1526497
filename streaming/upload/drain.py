"""Draining: have the engine of a directory deliver runs now, and hear how it goes. Knows no network and no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from streaming.errors import Defect, LaunchFailed
from streaming.processes import engine_link
from streaming.processes.engine_link import EngineLink, Event
from streaming.upload.model import Outcome, Terms, Wishes

PATIENCE_S = 60.0  # how long a run may get nowhere
UNREACHABLE_S = 10.0  # and how long if that is because nobody answers
GRACE_S = 3.0
TICK_S = 0.25
RESTART_S = 0.5  # before another engine is asked where one has died
DEATHS_MAX = 3  # of engines that had a single run to deliver: it is at fault


@dataclass
class Result:
    """What became of one run, what stood in the way, how many rows were sent."""

    path: Path
    outcome: Outcome = Outcome.NOT_TRIED
    problem: str | None = None
    cause: str | None = None
    sent_rows: int = 0
    moved_at: float = field(default_factory=time.monotonic, repr=False)  # when it got further
    is_unreachable: bool = field(default=False, repr=False)
    has_failed: bool = field(default=False, repr=False)  # a turn has met a problem


class Drain:
    """Delivers the runs of one call. `on_event` gets (result, event) whenever something happened to a run.

    At most `jobs` runs are with the engine at a time. Without `timeout_s`, a run is given up when it gets nowhere for a
    while, and after one has waited in vain, the others get a single attempt each.
    """

    def __init__(
        self,
        terms: Terms,
        wishes: Wishes,
        *,
        jobs: int,
        timeout_s: float | None = None,
        on_event: Callable[[Result, Event], None] = lambda _result, _event: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._order = {**vars(terms), **vars(wishes), "do": "drain"}
        self._token = terms.token
        self._jobs = jobs
        self._is_patient = timeout_s is not None
        self._give_up_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        self._on_event = on_event
        self._on_tick = on_tick
        self._links: dict[Path, EngineLink] = {}
        self._waiting: deque[Result] = deque()
        self._running: dict[str, Result] = {}
        self._has_waited_in_vain = False
        self._death_count = 0

    def run(self, paths: Iterable[Path]) -> list[Result]:
        """Bring every run as far as it goes; results in the order of `paths`. Raises LaunchFailed."""
        results = [Result(path) for path in paths]
        self._waiting = deque(results)
        try:
            while (self._waiting or self._running) and not self._is_over():
                self._hand_out()
                self._listen()
                self._give_up_hopeless()
                self._on_tick()
            for result in [*self._running.values()]:
                self._leave(result)
        finally:
            for link in self._links.values():
                link.close()
        return results

    def _is_over(self) -> bool:
        """At the deadline, what has not met anything yet gets a moment to say so."""
        late_s = time.monotonic() - self._give_up_at
        return late_s >= GRACE_S or (late_s >= 0 and all(result.has_failed for result in self._running.values()))

    def _hand_out(self) -> None:
        limit = 1 if self._death_count else self._jobs
        while self._waiting and len(self._running) < limit and time.monotonic() < self._give_up_at:
            result = self._waiting.popleft()
            result.moved_at = time.monotonic()
            self._running[str(result.path)] = result
            self._tell(result)
            self._on_event(result, {"event": "began"})

    def _tell(self, result: Result) -> None:
        folder = result.path.parent
        if folder not in self._links:
            self._links[folder] = engine_link.find_or_start(folder, hidden=[self._token])
        self._links[folder].tell({**self._order, "path": str(result.path)})

    def _listen(self) -> None:
        for folder, link in [*self._links.items()]:
            for event in link.events(TICK_S / len(self._links)):
                result = self._running.get(event.get("path", ""))
                if result is not None:
                    self._hear(result, event)
            if not link.is_open:
                self._replace(folder)

    def _hear(self, result: Result, event: Event) -> None:
        kind = event["event"]
        if kind in ("progress", "done"):
            result.sent_rows = event["rows"]
            result.moved_at = time.monotonic()
            self._has_waited_in_vain = False
        if kind in ("problem", "done"):
            result.problem, result.cause = event["text"], event["cause"]
        if kind == "problem":
            result.is_unreachable, result.has_failed = event["is_unreachable"], True
        if kind == "done":
            result.outcome = Outcome(event["outcome"])
            self._death_count = 0
            del self._running[str(result.path)]
            if result.outcome is Outcome.TOKEN_REFUSED:
                self._refuse_all(result)
        self._on_event(result, event)

    def _refuse_all(self, refused: Result) -> None:
        """A refused token is refused for every run."""
        for other in self._waiting:
            other.problem, other.cause = "not tried, because the service refuses the token", refused.cause
        self._waiting.clear()

    def _give_up_hopeless(self) -> None:
        for result in [*self._running.values()]:
            patience_s = UNREACHABLE_S if result.is_unreachable else PATIENCE_S
            has_waited = time.monotonic() - result.moved_at > patience_s
            if not self._is_patient and (has_waited or (self._has_waited_in_vain and result.has_failed)):
                self._has_waited_in_vain = True
                self._leave(result)

    def _leave(self, result: Result) -> None:
        """Wait for this run no longer."""
        link = self._links.get(result.path.parent)
        if link is not None:
            link.tell({"do": "leave", "path": str(result.path)})
        self._end(result, Outcome.BUSY if result.cause == "busy" else Outcome.WAITING)

    def _end(self, result: Result, outcome: Outcome) -> None:
        result.outcome = outcome
        del self._running[str(result.path)]
        self._on_event(result, {"event": "done"})

    def _replace(self, folder: Path) -> None:
        """Its engine has died: with several runs, one of them may be at fault, and they go one by one from now on."""
        del self._links[folder]
        mine = [result for result in self._running.values() if result.path.parent == folder]
        self._death_count += 1
        if len(mine) == 1 and self._death_count >= DEATHS_MAX:
            mine[0].problem, mine[0].cause = "the process that delivers it ended, again and again", Defect.cause
            self._end(mine.pop(), Outcome.ERROR)
        time.sleep(RESTART_S)
        for result in mine[1:]:
            del self._running[str(result.path)]
            self._waiting.appendleft(result)
        for result in mine[:1]:
            with suppress(LaunchFailed):
                self._tell(result)
