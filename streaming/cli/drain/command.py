"""`tracker-stream drain`: deliver what waits in the spool directory, once, or from now on."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from streaming import config
from streaming.cli import Mistake, options
from streaming.cli.drain.progress import DrainReport
from streaming.cli.drain.results import state_after, tell_results
from streaming.cli.terminal.log import log_to_stderr
from streaming.cli.terminal.screen import Screen, stderr, stdout
from streaming.cli.terminal.table import clean
from streaming.read.names import find_runs
from streaming.read.quantity import count, rows, size
from streaming.read.status import STILL_WAITING, Condition, Summary, exit_code_of, summaries, summarize
from streaming.upload.drain import Drain
from streaming.upload.model import Terms, Wishes

JOBS = 12  # runs that the uploader has in hand at once: twice its threads, so that none waits for our next order


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@click.option("--all", "everything", is_flag=True, help="Every waiting run; the default without RUN.")
@click.option("--watch", is_flag=True, help="Keep delivering all runs of the directory until Ctrl-C or SIGTERM.")
@click.option("--jobs", "-j", type=click.IntRange(1, 64), metavar="N", help=f"Runs at once.  [default: {JOBS}]")
@click.option("--timeout", type=options.Seconds(), metavar="S", help="Give up after this many seconds.")
@click.option("--dry-run", is_flag=True, help="Only show what is waiting.")
@click.option(
    "--ended",
    is_flag=True,
    help="End runs whose trackers are gone, also on other machines. Without RUN, not those seen in the last 5 minutes.",
)
@click.option("--anew", is_flag=True, help="Register runs again that the service forgot; try refused rows again.")
@click.option("--to", metavar="URL", help="Deliver to this service, even runs that were recorded for another one.")
@options.with_settings(config.SPOOL_DIR, *config.DELIVERY)
def drain(
    runs: tuple[str, ...],
    everything: bool,
    watch: bool,
    jobs: int | None,
    timeout: float | None,
    dry_run: bool,
    ended: bool,
    anew: bool,
    to: str | None,
    spool_dir: Path,
    token_file: str | None,
    api_url: str | None,
    s3_endpoint_url: str | None,
) -> None:
    """Deliver RUNs, or every run that is waiting.

    A run that is still being recorded is uploaded, but not finished. One run that cannot be delivered never stops another.
    Without --timeout, drain gives up after ten seconds if the service cannot be reached, and gives up a run that makes no
    progress for a minute.

    \b
    Exit codes: 0 nothing is left, 1 something was refused for good, 2 usage,
    3 something still waits (unreachable, timeout, or a run that went silent),
    4 token refused,
    130 Ctrl-C.

    \b
    Example: tracker-stream drain --timeout 600
    """
    if runs and (everything or watch):
        raise click.UsageError("RUN cannot be combined with --all or --watch.")
    screen = stderr()
    log_to_stderr(screen)
    if dry_run:
        _tell_plan(_chosen(spool_dir, runs, anew=anew), spool_dir)
        return
    terms = _terms(token_file, to or api_url, s3_endpoint_url)
    if watch:
        from streaming.cli.drain.serve import serve

        sys.exit(serve(spool_dir, terms, timeout_s=timeout, screen=screen))
    chosen = _chosen(spool_dir, runs, anew=anew)
    if not chosen:
        stdout().say(f"Nothing to deliver in {spool_dir}.")
        return
    wishes = Wishes(has_ended=ended, spares_recent=not runs, anew=anew, anywhere=to is not None)
    sys.exit(_drain(chosen, terms, wishes, jobs or JOBS, timeout, screen))


def _terms(token_file: str | None, api_url: str | None, s3_endpoint_url: str | None) -> Terms:
    token = config.find_token(token_file)
    if token is None:
        raise Mistake(
            f"there is no token to deliver with: set {config.TOKEN}, or {config.TOKEN_FILE} to a file that holds it"
            ' (for a service on this machine: eval "$(tracker-stream server env)")'
        )
    return Terms(token.text, config.api_url(api_url), config.s3_endpoint_url(s3_endpoint_url))


def _chosen(in_directory: Path, names: Sequence[str], *, anew: bool) -> list[Summary]:
    """The named runs, or all that have something left to do; of finished ones with refused rows, only with `anew`."""
    if names:
        return [summarize(path) for path in find_runs(in_directory, tuple(names))]
    found = summaries(in_directory)
    return [summary for summary in found if not summary.is_finished or (anew and summary.exit_code)]


def _tell_plan(chosen: Sequence[Summary], in_directory: Path) -> None:
    out = stdout()
    waiting = [summary for summary in chosen if summary.condition is not Condition.DELIVERED]
    if not waiting:
        out.say(f"Nothing to deliver in {in_directory}.")
    for summary in waiting:
        amount = f"{rows(summary.counts.waiting)}, {size(summary.backlog.csv_bytes)}"
        why = f"  ({summary.cause})" if summary.cause else ""
        out.say(f"{summary.name}  {summary.condition.value}  {amount}{why}")


def _drain(
    chosen: Sequence[Summary], terms: Terms, wishes: Wishes, jobs: int, timeout_s: float | None, screen: Screen
) -> int:
    """Once over the chosen runs. Ctrl-C ends it between two segments; what was sent stays sent."""
    elsewhere = {} if wishes.anywhere else _recorded_for_others(chosen, terms.api_url)
    plan = {summary.path: summary for summary in chosen if summary.path not in elsewhere}
    report = DrainReport(plan, screen)
    report.begin()
    draining = Drain(terms, wishes, jobs=jobs, timeout_s=timeout_s, on_event=report.on_event, on_tick=report.on_tick)
    try:
        with screen.live() if screen.can_redraw else nullcontext():
            results = draining.run(plan)
            if screen.can_redraw:
                screen.show(report.picture())
    except KeyboardInterrupt:
        screen.say(
            "tracker-stream: interrupted; what was sent stays sent, the rest waits. To go on: tracker-stream drain"
        )
        raise
    after = [state_after(result) for result in results]
    tell_results(after, plan, stdout(), spares_recent=wishes.has_ended and wishes.spares_recent)
    _tell_elsewhere(elsewhere, terms.api_url)
    return exit_code_of(after) or (STILL_WAITING if elsewhere else 0)


def _recorded_for_others(chosen: Sequence[Summary], api_url: str) -> dict[Path, str]:
    """The services of those runs that belong to another one: a forgotten setting must not send them elsewhere."""
    recorded_for = {each.path: each.run.api_url for each in chosen if each.run and not each.is_finished}
    return {path: url for path, url in recorded_for.items() if url not in ("", api_url)}


def _tell_elsewhere(elsewhere: dict[Path, str], api_url: str) -> None:
    """One line for each service, however many runs wait for it."""
    for url, number in Counter(elsewhere.values()).items():
        runs = "1 run was" if number == 1 else f"{count(number)} runs were"
        stdout().say(f"{runs} recorded for {clean(url)}, not for {api_url}, and not sent.")
        stdout().say(f"  to deliver here all the same: tracker-stream drain --to {shlex.quote(api_url)}")
