"""`tracker-stream advise`: what past jobs used of what they asked for, and what to ask for next time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import click

from streaming.cli import options
from streaming.cli.terminal.screen import stdout
from streaming.cli.terminal.table import Column, Line, Span, clean, lay_out
from streaming.collect.need import LEAST_DURATION_S, LEAST_SAMPLES, Advice
from streaming.config import SPOOL_DIR
from streaming.read.advice import advise
from streaming.read.jobs import grouped
from streaming.read.names import find_runs
from streaming.read.status import Summary, summaries, summarize

_COLUMNS = (
    Column("JOB", shrinks_to=6),
    Column("RUNS", align_right=True, rank=1),
    Column("CPUS", align_right=True),
    Column("MEMORY", align_right=True),
    Column("ASK FOR"),
)


@click.command("advise")
@click.argument("names", metavar="[PROJECT | JOB | RUN]...", nargs=-1, shell_complete=options.complete_run)
@options.with_settings(SPOOL_DIR)
def advise_command(names: tuple[str, ...], spool_dir: Path) -> None:
    """Show what the jobs of a project used of what they requested, and what to request next time.

    CPUs are per task: 99 of 100 samples used at most that. Memory is the peak of one node. The recommended request adds
    10 % to the CPUs and 20 % to the memory. Runs that were too short to tell are left out.

    \b
    Example: tracker-stream advise vision
    """
    chosen = [run for run in summaries(spool_dir) if not names or _project(run) in names]
    if not chosen:
        chosen = [summarize(path) for path in find_runs(spool_dir, names)] if names else []
    screen = stdout()
    if not chosen:
        screen.say(f"No runs in {spool_dir}.")
        return
    entries = [_cells(name, runs, advise(runs)) for name, runs in _alike(chosen)]
    screen.write(lay_out(_COLUMNS, entries, width=screen.width, ellipsis=screen.ellipsis))
    if any(cells[2][0] == "-" for cells in entries):
        screen.say(f"-: too short to tell (fewer than {LEAST_SAMPLES} samples, or less than {LEAST_DURATION_S:.0f} s)")


def _project(summary: Summary) -> str:
    return str(summary.run.metadata.get("project_name")) if summary.run else ""


def _alike(runs: Iterable[Summary]) -> list[tuple[str, list[Summary]]]:
    """Runs by the name of their job: what is started under one name again and again is thought to need the same."""
    found: defaultdict[str, list[Summary]] = defaultdict(list)
    for job in grouped(runs):
        found[job.name or job.id or job.runs[0].short_name] += job.runs
    return sorted(found.items())


def _cells(name: str, runs: list[Summary], advice: Advice | None) -> list[Span]:
    shown: Line = [(clean(name), ""), (str(len(runs)), "")]
    if advice is None:
        return [*shown, ("-", "dim"), ("-", "dim"), ("", "")]
    cpus, memory = advice.used_against_asked()
    return [*shown, (cpus, ""), (memory, ""), (advice.request(), "bold")]
