"""`tracker-stream drain --watch`: stay, and deliver every run of a directory, whoever records it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from spool import RunState, Spool, SpoolError, directory, ownership
from streaming.cli.commands.drain import STILL_WAITING, code_of, tell_results
from streaming.cli.commands.drain_progress import DrainReport
from streaming.cli.terminal.screen import Screen, stdout
from streaming.read.status import summaries, summarize
from streaming.upload.drain import Outcome
from streaming.upload.pool import ERROR, DrainPool, Result, Terms

ROUND_S = 5.0  # how often the directory is looked at
LIVE_S = 60.0  # how often a run that is still recorded is uploaded, and one tried again that could not be delivered
HOPELESS_S = 300.0  # and one that a person has to look at
_HOPELESS = (Outcome.TOKEN_REFUSED.value, Outcome.PARKED.value, ERROR)
_STOP_LOOK_S = 0.2


class _StopSignal:
    """SIGTERM asks to end: between two segments, in order."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True


class _Schedule:
    """Which runs are to be looked at now. Delivered ones never again."""

    def __init__(self) -> None:
        self._done: set[Path] = set()
        self._due_at: dict[Path, float] = {}
        self._live: set[Path] = set()

    def due(self, in_directory: Path) -> list[Path]:
        return [path for path in directory.spool_paths(in_directory) if path not in self._done and self._is_due(path)]

    def _is_due(self, path: Path) -> bool:
        """One that was live when it was uploaded, and has ended since, does not wait for its turn."""
        try:
            with closing(Spool(path)) as spool:
                run = spool.run()
        except SpoolError:
            return self._due_at.get(path, 0.0) <= time.monotonic()
        if run.state is RunState.FINISHED:
            self._done.add(path)
            return False
        has_ended_since = path in self._live and run.state is RunState.ENDED
        is_time = self._due_at.get(path, 0.0) <= time.monotonic()
        return (is_time or has_ended_since) and not run.parked and not ownership.is_owned(path)

    def note(self, result: Result) -> None:
        pause_s = HOPELESS_S if result.outcome in _HOPELESS else LIVE_S
        self._due_at[result.path] = time.monotonic() + pause_s
        (self._live.add if result.outcome == Outcome.UPLOADED.value else self._live.discard)(result.path)


def serve(in_directory: Path, terms: Terms, *, jobs: int, timeout_s: float | None, screen: Screen) -> int:
    """Until SIGTERM, Ctrl-C or the timeout. One line for each run that was delivered or refused; 0, or 3 if some wait."""
    stop, schedule = _StopSignal(), _Schedule()
    ends_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    screen.say(f"tracker-stream: serving {in_directory} for {terms.api_url}; end with Ctrl-C")

    def is_over() -> bool:
        return stop.is_set or time.monotonic() >= ends_at

    report = DrainReport({}, screen)
    with DrainPool(terms, jobs=jobs, on_event=report.on_event, should_stop=is_over) as pool:
        while not is_over():
            _round(pool, schedule, in_directory)
            _pause(ROUND_S, is_over)
    return STILL_WAITING if any(summary.is_left for summary in summaries(in_directory)) else 0


def _round(pool: DrainPool, schedule: _Schedule, in_directory: Path) -> None:
    before = {path: summarize(path) for path in schedule.due(in_directory)}
    results = pool.run(before)
    after = {result.path: summarize(result.path) for result in results}
    told = [each for each in results if each.outcome == Outcome.DELIVERED.value or code_of(each, after[each.path])]
    tell_results(told, before, after, stdout())
    for result in results:
        schedule.note(result)


def _pause(seconds: float, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_over():
        time.sleep(_STOP_LOOK_S)
