"""What `run` and `attach` say on stderr: the begin of a run, its end, its use, and what to do about it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spool import Run, SpoolError, directory, queries
from spool.model import Counts
from streaming import config
from streaming.cli.commands.recording_options import RunOptions
from streaming.cli.terminal.log import PREFIX
from streaming.cli.terminal.screen import Screen
from streaming.cli.terminal.sparkline import Series, sparkline
from streaming.collect.need import Need, Used, told
from streaming.errors import Unauthorized
from streaming.read.quantity import count, duration, rows
from streaming.record.recorder import Recorder

PROBLEM_LOOK_S = 15.0
PAGE_LOOK_S = 0.5  # until the run is registered
_NEEDS_A_PERSON = ("token refused", "parked")
log = logging.getLogger(__name__)


class Usage:
    """CPU, memory and GPU of the tracked processes over the run, for the lines at its end."""

    def __init__(self) -> None:
        self._series = {"CPU": Series(), "memory": Series(), "GPU": Series()}
        self.need = Need()

    def add(self, values: Mapping[str, Any]) -> None:
        self.need.add_sample(values)
        self._series["CPU"].add(float(values.get("process_cpu_usage") or 0))
        self._series["memory"].add(float(values.get("process_memory_mib") or 0))
        self._series["GPU"].add(float(values.get("process_gpu_usage") or 0))

    def lines(self, levels: str) -> list[str]:
        """One line each; none for a GPU that was not used."""
        units = {"CPU": ("cores", 2), "memory": ("MiB", 0), "GPU": ("GPUs", 2)}
        return [
            f"  {name:<6} {sparkline(series.shape(), levels=levels)}  average {series.average:,.{digits}f},"
            f" peak {series.peak:,.{digits}f} {unit}"
            for name, series in self._series.items()
            for unit, digits in [units[name]]
            if series.count and (series.peak or name != "GPU")
        ]


@dataclass
class RunReporter:
    """Says what happens to a run while it is recorded, on stderr. Says nothing if quiet."""

    options: RunOptions
    recorder: Recorder
    screen: Screen
    usage: Usage = field(default_factory=Usage)
    clock: Callable[[], float] = time.monotonic
    _look_at: float = 0.0
    _has_told_page: bool = False

    def tell_start(self, what: str) -> None:
        delivery = self.options.plan.delivery
        where = (
            f"only on this machine ({self.options.why_local})" if self.options.why_local else f"for {delivery.api_url}"
        )
        self._say(f"recording {what} as run {self._name}{self._rank}, {where}")

    def look(self) -> None:
        """Where is the run's page? Now and then: does the delivery need a person? Then the log says so, at most every
        ten minutes."""
        if self.clock() < self._look_at:
            return
        try:
            run = self.recorder.spool.run()
        except SpoolError:
            return  # the tracking itself tells of a spool that cannot be used
        self._tell_page(run)
        is_soon = run.has_token and run.registration is None
        self._look_at = self.clock() + (PAGE_LOOK_S if is_soon else PROBLEM_LOOK_S)
        cause, text = ("parked", run.parked) if run.parked else (run.problem_cause, run.problem)
        if text and cause in _NEEDS_A_PERSON:
            log.warning("nothing of run %s is delivered now, its rows are kept: %s", self._name, text)

    def _tell_page(self, run: Run) -> None:
        """As soon as it is known; not again at the end."""
        if not self._has_told_page and (page := run.page_url):
            self._has_told_page = True
            self._say(f"  page: {page}")

    def tell_wait(self) -> None:
        """The command has ended, and leaving takes a while longer."""
        self._say("waiting for the delivery; Ctrl-C to skip, nothing is lost")

    def tell_end(self, ending: str, duration_s: float) -> None:
        """What became of the run: its end, its rows, its resources; and, if rows wait, why and what to do."""
        spool = self.recorder.spool
        counts = queries.counts(spool.connection)
        numbers = f"{rows(counts.recorded)}, {count(counts.sent)} sent, {count(counts.waiting)} waiting"
        self._say(f"run {self._name}: {ending} after {duration(duration_s)}; {numbers}")
        for line in self.usage.lines(self.screen.levels):
            self._say(line)
        if advised := self._advised():
            self._say(f"  {advised}")
        run = spool.run()
        self._tell_page(run)
        if run.tracker.lost_row_count:
            self._say(f"  lost: {rows(run.tracker.lost_row_count)} could not be kept")
        if run.finish_answer is None:
            why = self.options.why_local or run.parked or run.problem_cause or "not delivered yet"
            self._say(f"  kept in {spool.path.parent} ({why})")
            self._say(f"  {_what_to_do(run, counts, self._job if self._rank else self._name)}")
        if self._rank:
            self._say(f"  all ranks: tracker-stream status {self._job}")

    def _advised(self) -> str:
        """Used against asked, of a run that has its limits for itself; of one of many ranks `advise` tells."""
        used = Used(self._name, self.options.plan.metadata, self.usage.need)
        return "" if self._rank else "; ".join(f"{name}: {text}" for name, text in told([used]).items())

    @property
    def _rank(self) -> str:
        """Of which job's ranks this is the first, where there are others, which say nothing themselves."""
        count = str(self.options.plan.metadata.get("tags", {}).get("world_size", "1"))
        return f" (rank 0 of {count}, job {self._job})" if self._job and count != "1" else ""

    @property
    def _job(self) -> str:
        return str(self.options.plan.metadata.get("tags", {}).get("job", ""))

    @property
    def _name(self) -> str:
        return directory.short_name(self.recorder.spool.path)

    def _say(self, text: str) -> None:
        if self.options.quiet:
            return
        try:
            self.screen.say(PREFIX.rstrip() + " " + text)
        except OSError:  # stderr is full, or its reader has left: the run is recorded all the same
            _give_up_stderr()


def _give_up_stderr() -> None:
    """What waits to be written goes nowhere; else Python would try again at its end, and leave with 120."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _what_to_do(run: Run, counts: Counts, name: str) -> str:
    """What a person can do about a run that is not finished, by what keeps it from being."""
    drain = f"tracker-stream drain {name}"
    if run.parked:
        return f"to register it anew, and deliver: {drain} --anew"
    if run.problem_cause == Unauthorized.cause:
        return f"to deliver: put a token that is valid into {config.TOKEN}, then: {drain}"
    if counts.sent and not counts.waiting:
        return f"all rows are there, only the run's end is not told yet; to tell it: {drain}"
    return f"to deliver: {drain}"
