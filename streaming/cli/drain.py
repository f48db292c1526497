"""`tracker-stream drain`: deliver what waits in the spool directory, once, or from now on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from spool import directory
from streaming import config, settings
from streaming.cli import Mistake, notice, options
from streaming.cli.display import Screen, stderr, stdout
from streaming.cli.drain_report import DrainReport
from streaming.cli.quantity import count, rows, size
from streaming.drain import Outcome
from streaming.drain_pool import ERROR, NOT_TRIED, PATIENCE_S, DrainPool, Result, Terms
from streaming.summary import Condition, Summary, summaries, summarize

REFUSED_FOR_GOOD, STILL_WAITING, TOKEN_REFUSED = 1, 3, 4
MAX_JOBS = 4
ROUND_S = 5.0  # `--watch`: how often the directory is looked at
LIVE_S = 60.0  # and how often a run that is still recorded is uploaded
REFUSED_PAUSE_S = 300.0
SET_ASIDE = (Condition.FAILED, Condition.DAMAGED)


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@click.option("--all", "everything", is_flag=True, help="Every run that waits: the default without RUN.")
@click.option("--watch", is_flag=True, help="Stay and serve the whole directory, until Ctrl-C or SIGTERM.")
@click.option(
    "--jobs", "-j", type=click.IntRange(1, 64), metavar="N", help=f"Runs at once.  [default: CPUs, at most {MAX_JOBS}]"
)
@click.option("--timeout", type=options.Seconds(), metavar="S", help="Give up after so many seconds.")
@click.option("--dry-run", is_flag=True, help="Only say what waits.")
@click.option("--ended", is_flag=True, help="The runs' trackers are gone, also those on other machines.")
@click.option("--anew", is_flag=True, help="Register runs again that the service forgot; try refused rows again.")
@options.with_settings(settings.SPOOL_DIR, *settings.DELIVERY)
def drain(
    runs: tuple[str, ...],
    everything: bool,
    watch: bool,
    jobs: int | None,
    timeout: float | None,
    dry_run: bool,
    ended: bool,
    anew: bool,
    spool_dir: str | None,
    token_file: str | None,
    api_url: str | None,
    s3_endpoint_url: str | None,
) -> None:
    """Deliver RUNs, or every run that waits.

    A run that is still being recorded is uploaded, but not finished. One run that cannot be delivered never stops another.
    Without --timeout a run is given up when nothing got through for a minute.

    \b
    Exit codes: 0 nothing is left, 1 something was refused for good, 2 usage,
    3 something still waits (target unreachable, or timeout), 4 token refused,
    130 Ctrl-C.

    \b
    Example: tracker-stream drain --timeout 600
    """
    if runs and (everything or watch):
        raise click.UsageError("RUN and --all or --watch exclude each other.")
    notice.log_to_stderr()
    in_directory = options.spool_directory(spool_dir)
    if dry_run:
        _tell_plan(_chosen(in_directory, runs, anew=anew), in_directory)
        return
    terms = _terms(token_file, api_url, s3_endpoint_url, has_ended=ended, anew=anew)
    job_count = jobs or min(MAX_JOBS, os.cpu_count() or 1)
    if watch:
        sys.exit(_serve(in_directory, terms, job_count, timeout))
    chosen = _chosen(in_directory, runs, anew=anew)
    if not chosen:
        stdout().say(f"Nothing to deliver in {in_directory}.")
        return
    sys.exit(_drain(chosen, terms, job_count, timeout))


def _terms(
    token_file: str | None, api_url: str | None, s3_endpoint_url: str | None, *, has_ended: bool, anew: bool
) -> Terms:
    token = config.find_token(token_file)
    if token is None:
        raise Mistake(
            f"there is no token to deliver with: set {config.TOKEN}, or {config.TOKEN_FILE} to a file that holds it"
            ' (for a service on this machine: eval "$(tracker-stream target env)")'
        )
    return Terms(
        token.text, config.api_url(api_url), config.s3_endpoint_url(s3_endpoint_url), has_ended=has_ended, anew=anew
    )


def _chosen(in_directory: Path, names: Sequence[str], *, anew: bool) -> list[Summary]:
    """The named runs, or all that have something left to do; of finished ones with refused rows, only with `anew`."""
    if names:
        return [summarize(path) for path in dict.fromkeys(directory.find_spool(in_directory, name) for name in names)]
    found = summaries(in_directory)
    return [summary for summary in found if not summary.is_finished or (anew and summary.condition in SET_ASIDE)]


def _tell_plan(chosen: Sequence[Summary], in_directory: Path) -> None:
    out = stdout()
    waiting = [summary for summary in chosen if summary.condition is not Condition.DELIVERED]
    if not waiting:
        out.say(f"Nothing to deliver in {in_directory}.")
    for summary in waiting:
        amount = f"{rows(summary.counts.waiting)}, {size(summary.backlog.csv_bytes)}"
        why = f"  ({summary.cause})" if summary.cause else ""
        out.say(f"{summary.name}  {summary.condition.value}  {amount}{why}")


def _drain(chosen: Sequence[Summary], terms: Terms, jobs: int, timeout_s: float | None) -> int:
    """Once over the chosen runs. Ctrl-C ends it between two segments; what was sent stays sent."""
    plan = {summary.path: summary for summary in chosen}
    screen = stderr()
    report = DrainReport(plan, screen)
    report.begin()
    pool = DrainPool(terms, jobs=jobs, timeout_s=timeout_s, on_event=report.on_event, on_tick=report.on_tick)
    try:
        with screen.live() if screen.can_redraw else nullcontext(), pool:
            results = pool.run(plan)
            if screen.can_redraw:
                screen.show(report.picture())
    except KeyboardInterrupt:
        screen.say(
            "tracker-stream: interrupted; what was sent stays sent, the rest waits. To go on: tracker-stream drain"
        )
        raise
    after = {result.path: summarize(result.path) for result in results}
    _tell_results(results, plan, after, stdout())
    return _exit_code(results, after)


def _tell_results(
    results: Sequence[Result], before: dict[Path, Summary], after: dict[Path, Summary], out: Screen
) -> None:
    """One line per run, on stdout: its name, how many rows went, how many wait, what became of it, and why."""
    for result in results:
        sent = after[result.path].counts.sent - before[result.path].counts.sent
        text = f"{result.path.stem}  {count(max(0, sent))} sent"
        if waiting := after[result.path].counts.waiting:
            text += f", {count(waiting)} waiting"
        if rejected := after[result.path].counts.rejected:
            text += f", {count(rejected)} set aside"
        text += f"  {_word(result, after[result.path])}"
        out.say(f"{text}: {result.problem}" if result.problem else text)


def _word(result: Result, after: Summary) -> str:
    if result.outcome == NOT_TRIED:
        return "waiting"
    if result.outcome == Outcome.DELIVERED.value and after.condition is not Condition.DELIVERED:
        return str(after.condition.value)
    return result.outcome


def _exit_code(results: Iterable[Result], after: dict[Path, Summary]) -> int:
    """What is worth knowing first: a refused token, then what trying again can mend, then what it cannot."""
    codes = {_code(result, after[result.path]) for result in results}
    return next((code for code in (TOKEN_REFUSED, STILL_WAITING, REFUSED_FOR_GOOD) if code in codes), 0)


def _code(result: Result, after: Summary) -> int:
    if result.outcome == Outcome.TOKEN_REFUSED.value:
        return TOKEN_REFUSED
    if result.outcome in (Outcome.PARKED.value, ERROR) or after.condition in SET_ASIDE:
        return REFUSED_FOR_GOOD
    if result.outcome in (Outcome.WAITING.value, NOT_TRIED):
        return STILL_WAITING
    is_elsewhere = result.outcome == Outcome.BUSY.value and after.condition is Condition.WAITING
    return STILL_WAITING if is_elsewhere else 0


class _StopSignal:
    """SIGTERM asks `--watch` to end: between two segments, and with exit code 0 or 3."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True


def _serve(in_directory: Path, terms: Terms, jobs: int, timeout_s: float | None) -> int:
    """Look at the directory again and again. One line for what happened; the same trouble at most every ten minutes."""
    stop = _StopSignal()
    ends_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    err, due = stderr(), dict[Path, float]()
    err.say(f"tracker-stream: serving {in_directory} for {terms.api_url}; end with Ctrl-C")

    def is_over() -> bool:
        return stop.is_set or time.monotonic() >= ends_at

    report = DrainReport({}, err)
    last: list[Result] = []
    with DrainPool(terms, jobs=jobs, patience_s=PATIENCE_S, on_event=report.on_event, should_stop=is_over) as pool:
        while not is_over():
            paths = [path for path in directory.spool_paths(in_directory) if due.get(path, 0.0) <= time.monotonic()]
            waiting = [summary for summary in map(summarize, paths) if _is_ours_to_deliver(summary)]
            before = {summary.path: summary for summary in waiting}
            last = pool.run(before)
            after = {result.path: summarize(result.path) for result in last}
            told = [
                result
                for result in last
                if result.outcome == Outcome.DELIVERED.value or _code(result, after[result.path])
            ]
            _tell_results(told, before, after, stdout())
            _plan_next(last, due)
            _pause(ROUND_S, is_over)
    left = {path: summarize(path) for path in directory.spool_paths(in_directory)}
    return STILL_WAITING if any(summary.is_left for summary in left.values()) else 0


def _is_ours_to_deliver(summary: Summary) -> bool:
    """Not delivered, nobody else delivers it, and no person has to decide first."""
    return summary.condition in (Condition.RECORDING, Condition.WAITING) and not summary.is_owned


def _plan_next(results: Iterable[Result], due: dict[Path, float]) -> None:
    """When a run is looked at again: at once after a success, later where that would only hammer."""
    pauses = {
        Outcome.TOKEN_REFUSED.value: REFUSED_PAUSE_S,
        ERROR: REFUSED_PAUSE_S,
        Outcome.PARKED.value: REFUSED_PAUSE_S,
    }
    for result in results:
        due[result.path] = time.monotonic() + pauses.get(result.outcome, LIVE_S)


def _pause(seconds: float, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_over():
        time.sleep(0.2)
