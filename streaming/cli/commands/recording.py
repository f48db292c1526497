"""What `run` and `attach` share: the plan from the settings, and the lines that people see at the start and the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spool import SpoolError, directory, queries
from streaming import config
from streaming.cli import options
from streaming.cli.terminal.log import PREFIX
from streaming.cli.terminal.quantity import count, duration, rows
from streaming.cli.terminal.screen import Screen
from streaming.cli.terminal.sparkline import Series, sparkline
from streaming.collect.need import Need, advice_for_one
from streaming.collect.redaction import redact
from streaming.collect.scheduler import Placement, placement
from streaming.config import Mode, Target
from streaming.errors import BadArgument
from streaming.record.recorder import Delivery, Recorder
from streaming.record.tracker import Plan

PROBLEM_LOOK_S = 15.0
_NEEDS_A_PERSON = ("token refused", "parked")
_SAYS_WHERE_TO = {"mode", *(setting.name for setting in config.DELIVERY)}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What the user wants recorded, and how."""

    plan: Plan
    exit_wait_s: float
    quiet: bool
    why_local: str  # why nothing is delivered; "" if it is


def understand(
    given: Mapping[str, Any], command: list[str] | None, where: Placement, unusable: Mapping[str, str]
) -> Wish:
    """The settings as a plan. What is `unusable` is told; if it says where to deliver, the run is recorded only."""
    for text in unusable.values():
        config.warn_once(text)
    target = _target(given, unusable)
    plan = Plan(
        spool_dir=options.spool_directory(given["spool_dir"]),
        delivery=Delivery(
            token=target.token,
            api_url=target.api_url,
            s3_endpoint_url=target.s3_endpoint_url,
            upload_interval_s=config.wait_s(given["upload_interval"], "upload_interval", least=1.0),
            linger_s=config.linger_s(),
        ),
        interval_s=config.wait_s(given["interval"], "interval"),
        metadata=_metadata(given, command, where, target.token),
    )
    exit_wait_s = config.wait_s(given["exit_wait"], "exit_wait")
    is_quiet = given["quiet"] or not where.is_first_rank  # one rank tells for all of its step
    return Wish(plan, exit_wait_s, is_quiet, target.why_local)


def _target(given: Mapping[str, Any], unusable: Mapping[str, str]) -> Target:
    """Where rows go; nowhere in offline mode, and where a setting leaves that open: a guess might be a stranger."""
    addresses = given["api_url"], given["s3_endpoint_url"]
    if doubtful := [text for name, text in unusable.items() if name in _SAYS_WHERE_TO]:
        return Target(None, *addresses, why_local=doubtful[0])
    if Mode(given["mode"]) is Mode.OFFLINE:
        return Target(None, *addresses, why_local="offline mode")
    try:
        token = config.find_token(given["token_file"])
    except BadArgument as error:
        return config.local_target(str(error))
    if token is None:
        return Target(None, *addresses, why_local=f"no {config.TOKEN}")
    if token.source == config.TOKEN_FALLBACK and not given["quiet"]:
        log.warning("%s is used as the token; %s is its name now", config.TOKEN_FALLBACK, config.TOKEN)
    return Target(token.text, *addresses)


def _metadata(
    given: Mapping[str, Any], command: list[str] | None, where: Placement, token: str | None
) -> dict[str, Any]:
    """What the user gave, filled up with what the scheduler tells; secrets in the command hidden."""
    named: dict[str, Any] = {name: given[name] or None for name in config.METADATA_NAMES}
    if command is not None:
        named["command"] = redact(command, [token] if token else [])
    return where.filling({**named, "tags": given["tags"] or {}})


def where_am_i() -> Placement:
    """The scheduler's and the control groups' word on this process."""
    return placement(os.environ)


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
class Witness:
    """Says what happens to a run while it is recorded, on stderr. Says nothing if quiet."""

    wish: Wish
    recorder: Recorder
    screen: Screen
    usage: Usage = field(default_factory=Usage)
    clock: Callable[[], float] = time.monotonic
    _look_at: float = 0.0

    def tell_start(self, what: str) -> None:
        delivery = self.wish.plan.delivery
        where = f"only on this machine ({self.wish.why_local})" if self.wish.why_local else f"for {delivery.api_url}"
        self._say(f"recording {what} as run {self._name}{self._rank}, {where}")

    def look(self) -> None:
        """Now and then: does the delivery need a person? Then the log says so, at most every ten minutes."""
        if self.clock() < self._look_at:
            return
        self._look_at = self.clock() + PROBLEM_LOOK_S
        try:
            run = self.recorder.spool.run()
        except SpoolError:
            return  # the tracking itself tells of a spool that cannot be used
        cause, text = ("parked", run.parked) if run.parked else (run.problem_cause, run.problem)
        if text and cause in _NEEDS_A_PERSON:
            log.warning("nothing of run %s is delivered now, its rows are kept: %s", self._name, text)

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
        if page := run.page_url:
            self._say(f"  page: {page}")
        if run.tracker.lost_row_count:
            self._say(f"  lost: {rows(run.tracker.lost_row_count)} could not be kept")
        if run.finish_answer is None:
            why = self.wish.why_local or run.parked or run.problem_cause or "not delivered yet"
            self._say(f"  kept in {spool.path.parent} ({why})")
            self._say(f"  to deliver: tracker-stream drain {self._job if self._rank else self._name}")
        if self._rank:
            self._say(f"  all ranks: tracker-stream status {self._job}")

    def _advised(self) -> str:
        """Used against asked, of a run that has its limits for itself; of one of many ranks `advise` tells."""
        tags = self.wish.plan.metadata.get("tags", {})
        advice = advice_for_one(self.usage.need, tags, self.wish.plan.metadata.get("orchestrator", ""))
        if self._rank or advice is None:
            return ""
        cpus, memory = advice.used_against_asked()
        return f"used {cpus} CPUs, {memory}; next time ask for {advice.request()}"

    @property
    def _rank(self) -> str:
        """Of which job's ranks this is the first, where there are others, which say nothing themselves."""
        count = str(self.wish.plan.metadata.get("tags", {}).get("world_size", "1"))
        return f" (rank 0 of {count}, job {self._job})" if self._job and count != "1" else ""

    @property
    def _job(self) -> str:
        return str(self.wish.plan.metadata.get("tags", {}).get("job", ""))

    @property
    def _name(self) -> str:
        return directory.short_name(self.recorder.spool.path)

    def _say(self, text: str) -> None:
        if self.wish.quiet:
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
