"""`tracker-stream clean`: remove delivered runs past their retention; never a run with anything undelivered."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from spool import directory, ownership
from spool.errors import Owned, SpoolError
from streaming.cli import options
from streaming.cli.terminal.screen import Screen, stderr, stdout
from streaming.cli.terminal.table import clean as cleaned
from streaming.config import SPOOL_DIR
from streaming.read.quantity import duration, moment, parse_duration, rows, size
from streaming.read.status import Condition, Summary, summaries, summarize

DEFAULT_AGE = "7d"


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """A duration like 90s, 12h, 7d, 2w."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError:
            return self.fail(f"{value!r} is not an age; give e.g. 12h, 7d or 2w", param, ctx)


@click.command()
@click.option(
    "--older-than", type=Age(), default=DEFAULT_AGE, show_default=True, metavar="AGE", help="Time since delivery."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@options.with_settings(SPOOL_DIR)
def clean(older_than: float, dry_run: bool, yes: bool, spool_dir: Path) -> None:
    """Remove delivered runs past their retention.

    A run is removed only if the service has acknowledged its end, every row was delivered, and no process is using it.

    \b
    Example: tracker-stream clean --older-than 30d --dry-run
    """
    chosen = [summary for summary in summaries(spool_dir) if _may_go(summary, older_than)]
    out = stdout()
    if not chosen:
        out.say(f"Nothing to remove: no run in {spool_dir} was delivered more than {duration(older_than)} ago.")
        return
    for summary in chosen:
        out.say(_described(summary))
    total = size(sum(_size(summary.path) for summary in chosen))
    if dry_run:
        out.say(f"{len(chosen)} delivered run(s), {total}, would be removed.")
        return
    if not yes and not _confirmed(len(chosen), total):
        stderr().say("tracker-stream: nothing was removed; to remove them without being asked add --yes")
        sys.exit(2)
    removed = sum(_remove(summary.path, older_than, out) for summary in chosen)
    out.say(f"{removed} run(s) removed.")


def _may_go(summary: Summary, older_than_s: float) -> bool:
    """Delivered whole and for long enough, and nobody is at it. A run with rejected rows is never DELIVERED."""
    finished_at = summary.run.finished_at if summary.run else None
    return (
        summary.condition is Condition.DELIVERED
        and summary.counts.waiting == 0
        and not summary.is_owned
        and finished_at is not None
        and time.time() - finished_at >= older_than_s
    )


def _described(summary: Summary) -> str:
    run = summary.run
    job = cleaned(summary.job_name or "-")
    delivered = moment(run.finished_at if run else None)
    return f"{summary.name}  {job}  delivered {delivered}  {rows(summary.counts.recorded)}  {size(_size(summary.path))}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _confirmed(number: int, total: str) -> bool:
    """Ask on a terminal; without one nobody can answer, and that means no."""
    if not sys.stdin.isatty():
        return False
    return click.confirm(f"Remove {number} delivered run(s), {total}?", err=True)


def _remove(path: Path, older_than_s: float, out: Screen) -> bool:
    """Look again under the run's lock: it may have changed since it was listed."""
    try:
        with ownership.own(path):
            if not _still_may_go(path, older_than_s):
                return False
            directory.remove(path)
            return True
    except (Owned, SpoolError, OSError) as error:
        out.say(f"{path.stem} is kept: {error}")
        return False


def _still_may_go(path: Path, older_than_s: float) -> bool:
    from dataclasses import replace

    return _may_go(replace(summarize(path), is_owned=False), older_than_s)  # the owner is us
