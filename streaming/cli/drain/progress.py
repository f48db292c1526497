"""What people see of a drain: a picture that is redrawn on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spool import directory
from streaming.cli.terminal.log import PREFIX
from streaming.cli.terminal.screen import Screen
from streaming.cli.terminal.table import Line, clean, cropped
from streaming.read.quantity import count, duration, rows, size
from streaming.read.status import Summary
from streaming.upload.drain import Result
from streaming.upload.model import Outcome

PLAIN_S = 30.0
DRAW_S = 0.25
RATE_WINDOW_S = 20.0
_BAR_CELLS = 20

log = logging.getLogger(__name__)


class Rate:
    """Rows per second over the last moments, and the time that the rest will take at that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points: deque[tuple[float, int]] = deque([(clock(), 0)])

    def note(self, done: int) -> None:
        now = self._clock()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > RATE_WINDOW_S:
            self._points.popleft()

    def per_second(self) -> float:
        (first_at, first), (last_at, last) = self._points[0], self._points[-1]
        return max(0.0, (last - first) / (last_at - first_at)) if last_at > first_at else 0.0

    def eta_s(self, left: int) -> float | None:
        rate = self.per_second()
        return left / rate if rate > 0 else None


class DrainReport:
    """Listens to a `Drain` and shows how it goes on `screen` (stderr). `plan`: what waits, by path."""

    def __init__(
        self, plan: Mapping[Path, Summary], screen: Screen, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._screen = screen
        self._clock = clock
        self._rate = Rate(clock)
        self._running: dict[Path, Result] = {}
        self._done: dict[Path, Result] = {}
        self._total_rows = sum(summary.counts.waiting for summary in plan.values())
        self._total_bytes = sum(summary.backlog.csv_bytes for summary in plan.values())
        self._shown_at = clock()

    def begin(self) -> None:
        """The first line, where nothing is redrawn."""
        if not self._screen.can_redraw:
            runs = f"{len(self._plan)} run{'' if len(self._plan) == 1 else 's'}"
            self._say(f"draining {runs}: {rows(self._total_rows)}, {size(self._total_bytes)}")

    def on_event(self, result: Result, event: Mapping[str, Any]) -> None:
        """Keep in mind what happened; warnings and outages go to the log, which holds back repetitions."""
        if event["event"] == "done":
            self._running.pop(result.path, None)
            self._done[result.path] = result
        else:
            self._running[result.path] = result
        if event["event"] == "warning":
            log.warning("%s: %s", directory.short_name(result.path), event["text"])
        if event["event"] == "problem" and (not self._screen.can_redraw or not self._plan):
            log.warning("%s", event["text"])

    def on_tick(self) -> None:
        """Show how far it is, if it is time to."""
        self._rate.note(self._sent_rows())
        now = self._clock()
        if now - self._shown_at < (DRAW_S if self._screen.can_redraw else PLAIN_S):
            return
        self._shown_at = now
        if self._screen.can_redraw:
            self._screen.show(self.picture())
        else:
            self._say(self._totals())

    def picture(self) -> list[Line]:
        """The totals, and each run that is under way."""
        lines: list[Line] = [[(self._totals(), "bold")]]
        for path, result in self._running.items():
            total = self._plan[path].counts.waiting if path in self._plan else 0
            share = min(1.0, result.sent_rows / total) if total else 0.0
            job = self._plan[path].job_name if path in self._plan else None
            line: Line = [
                (f"  {directory.short_name(path)}  ", ""),
                (f"{cropped(clean(job or '-'), 12, self._screen.ellipsis):<12}  ", ""),
                (self._bar(share), "green"),
                (f" {share:4.0%}  ", ""),
            ]
            if result.problem:
                line.append((clean(result.cause or "problem") + ", trying again", "yellow"))
            lines.append(line)
        return lines

    def _bar(self, share: float) -> str:
        filled = round(share * _BAR_CELLS)
        full, empty = ("█", "░") if self._screen.has_unicode else ("#", ".")
        return full * filled + empty * (_BAR_CELLS - filled)

    def _totals(self) -> str:
        sent = min(self._sent_rows(), self._total_rows)
        rate = self._rate.per_second()
        eta_s = self._rate.eta_s(self._total_rows - sent)
        ending = f", {count(round(rate))} rows/s, ETA {duration(eta_s)}" if eta_s is not None else ""
        return f"{count(sent)} of {rows(self._total_rows)}, {len(self._done)} of {len(self._plan)} runs{ending}"

    def _sent_rows(self) -> int:
        """Rows that went out; of a run that is delivered, all that waited (a small one goes inside the finish)."""
        running = sum(result.sent_rows for result in self._running.values())
        done = sum(
            self._plan[path].counts.waiting
            if result.outcome is Outcome.DELIVERED and path in self._plan
            else result.sent_rows
            for path, result in self._done.items()
        )
        return running + done

    def _say(self, text: str) -> None:
        self._screen.say(PREFIX + text)
