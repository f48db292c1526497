"""`tracker-stream status`: what is recorded, what arrived, what waits and why."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from spool.model import Backlog, iso_utc
from streaming.cli import options
from streaming.cli.commands.uploader import sentence
from streaming.cli.terminal.screen import Screen, stderr, stdout
from streaming.cli.terminal.table import Column, Line, Span, clean, lay_out
from streaming.collect.need import told
from streaming.config import SPOOL_DIR
from streaming.processes import engine_link
from streaming.read.advice import used_by
from streaming.read.jobs import Job, grouped, place_key, place_of
from streaming.read.names import find_runs
from streaming.read.quantity import count, duration, moment, rows, short_moment, size
from streaming.read.status import STILL_WAITING, Condition, Summary, exit_code_of, summaries, summarize

SCHEMA_VERSION = 1
WATCH_S = 2.0
PLAIN_WATCH_S = 30.0
MOST_CODES = 3  # of a job's runs

_STYLES = {
    Condition.RECORDING: "cyan",
    Condition.SILENT: "yellow",
    Condition.WAITING: "yellow",
    Condition.DELIVERED: "green",
    Condition.FAILED: "red",
    Condition.DAMAGED: "red",
    Condition.UNREADABLE: "red",
}
_COLUMNS = (
    Column("RUN"),
    Column("JOB", shrinks_to=6, rank=2),
    Column("STATE"),
    Column("STARTED", rank=3),
    Column("DURATION", align_right=True, rank=1),
    Column("EXIT", align_right=True, rank=4),
    Column("ROWS", align_right=True),
    Column("SENT", align_right=True),
    Column("WAITING", align_right=True),
)


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@click.option("--expand", is_flag=True, help="Show each run of a job on a line of its own.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option("--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@click.option("--check", is_flag=True, help="Exit with 3 if anything is not delivered.")
@options.with_settings(SPOOL_DIR)
def status(runs: tuple[str, ...], expand: bool, as_json: bool, watch: bool, check: bool, spool_dir: Path) -> None:
    """Show which runs are recorded, delivered or waiting, and why.

    A run is recording, silent (its tracker is on another host and was not seen for a while), waiting (ended, not all
    delivered), delivered, failed (something was refused for good), damaged (rows fail their checksums) or unreadable. The
    runs of a job (ranks, steps, array tasks, attempts) share one line.

    RUN is a run's name, any unique part of it, a job's id or name (all its runs are shown), or `latest`.

    \b
    Example: tracker-stream status --check
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people and --json for programs: use one of them.")

    def look() -> list[Summary]:
        return [summarize(path) for path in find_runs(spool_dir, runs)] if runs else summaries(spool_dir)

    found = look()
    if watch:
        _watch(look, spool_dir, expand=expand or bool(runs))
    elif as_json:
        click.echo(json.dumps(_document(found, spool_dir), indent=2, ensure_ascii=True))
    else:
        screen = stdout()
        details = len(runs) == 1 and len(found) == 1
        expand = expand or bool(runs)
        screen.write(_details(found[0]) if details else _table(found, spool_dir, screen, expand=expand))
        for engine in engine_link.ask_all(spool_dir):
            screen.write([[(clean(sentence(engine)), "")]])
    sys.exit(STILL_WAITING if check and exit_code_of(found) else 0)


def _document(found: Sequence[Summary], in_directory: Path) -> dict[str, Any]:
    now = time.time()
    return {
        "schema_version": SCHEMA_VERSION,
        "generated_at": iso_utc(now),
        "spool_dir": str(in_directory),
        "uploaders": engine_link.ask_all(in_directory),
        "runs": [summary.as_json(now) for summary in found],
    }


def _table(found: Sequence[Summary], in_directory: Path, screen: Screen, *, expand: bool) -> list[Line]:
    if not found:
        return [[(f"No runs in {clean(in_directory)}.", "")]]
    now = time.time()
    entries = [entry for job in grouped(found) for entry in _entries(job, now, expand=expand)]
    table = lay_out(_COLUMNS, [cells for cells, _ in entries], width=screen.width, ellipsis=screen.ellipsis)
    lines = table[:1]
    for (_, below), line in zip(entries, table[1:], strict=True):
        lines += [line, *below]
    return [*lines, [], _totals(found)]


def _entries(job: Job, now: float, *, expand: bool) -> Iterator[tuple[list[Span], list[Line]]]:
    """The lines of a job: the cells, and what is said below them. A run by itself is one line, expanded or not."""
    is_one = len(job.runs) == 1
    if is_one and not (expand and place_of(job.runs[0].run)):
        yield _cells(job.runs[0], now), _reasons(job.runs[0], now)
        return
    if not is_one:
        yield _job_cells(job, now), [] if expand else _reasons_of_job(job, now)
    if expand:
        for run in sorted(job.runs, key=lambda run: place_key(run.run)):
            cells = _cells(run, now)
            cells[:2] = [(cells[0][0] if is_one else f"  {cells[0][0]}", ""), (clean(place_of(run.run)), "")]
            yield cells, _reasons(run, now)


def _cells(summary: Summary, now: float) -> list[Span]:
    run = summary.run
    return [
        (clean(summary.short_name), ""),
        (clean(summary.job_name or "-"), ""),
        (summary.condition.value, _STYLES[summary.condition]),
        (short_moment(run.started_at if run else None, now), ""),
        (duration(summary.duration_s(now)), ""),
        _exit_cell([summary]),
        *_row_cells([summary]),
    ]


def _job_cells(job: Job, now: float) -> list[Span]:
    """All runs of a job as one: it began with the first, and is in the states that they are in."""
    states = job.conditions
    only = len(states) == 1
    state = ", ".join(condition.value if only else f"{number} {condition.value}" for condition, number in states)
    return [
        (clean(job.id), ""),
        (clean(f"{job.name or '-'} ({job.extent()})"), ""),
        (state, _STYLES[states[0][0]] if only else ""),
        (short_moment(job.started_at, now), ""),
        (duration(job.duration_s(now)), ""),
        _exit_cell(job.runs),
        *_row_cells(job.runs),
    ]


def _exit_cell(runs: Sequence[Summary]) -> Span:
    """The exit code; of several runs each one that occurs, a failure before a success."""
    codes = {run.run.exit_code for run in runs if run.run and run.run.exit_code is not None}
    shown = sorted(codes, key=lambda code: (code == 0, code))
    text = ", ".join(map(str, shown[:MOST_CODES])) + (", ..." if len(shown) > MOST_CODES else "")
    return text or "-", "red" if any(codes) else ""


def _row_cells(runs: Sequence[Summary]) -> list[Span]:
    waiting = sum(run.counts.waiting + run.counts.rejected for run in runs)
    style = next((_STYLES[run.condition] for run in runs if run.counts.waiting + run.counts.rejected), "")
    return [
        (count(sum(run.counts.recorded for run in runs)), ""),
        (count(sum(run.counts.sent for run in runs)), ""),
        (count(waiting), style),
    ]


def _reasons_of_job(job: Job, now: float) -> list[Line]:
    """Each reason once, with the number of runs that have it."""
    lines: list[Line] = []
    if waiting := [run for run in job.runs if run.counts.waiting and run.condition is not Condition.DELIVERED]:
        backlogs = [run.backlog for run in waiting]
        oldest_at = min((one.oldest_at for one in backlogs if one.oldest_at), default=None)
        total = Backlog(sum(one.row_count for one in backlogs), sum(one.csv_bytes for one in backlogs), oldest_at)
        lines.append([(f"  waiting: {_backlog_text(total, now)}", "dim")])
    lines += _losses(job.runs)
    problems = Counter((run.cause or "problem", run.problem, run.condition) for run in job.runs if run.problem)
    for (cause, problem, condition), number in problems.items():
        many = f" ({number} runs)" if number > 1 else ""
        lines.append([(f"  {clean(cause)}: ", _STYLES[condition]), (clean(problem) + many, "")])
    return lines


def _losses(runs: Sequence[Summary]) -> list[Line]:
    lost = sum(run.lost_row_count for run in runs)
    return [[("  lost: ", "red"), (f"{rows(lost)} could not be kept", "")]] if lost else []


def _reasons(summary: Summary, now: float) -> list[Line]:
    """Below a run that is not delivered: how much waits since when; what stands in the way."""
    lines: list[Line] = []
    if summary.counts.waiting and summary.condition is not Condition.DELIVERED:
        lines.append([(f"  waiting: {_backlog_text(summary.backlog, now)}", "dim")])
    lines += _losses([summary])
    if summary.problem:
        lines.append(
            [(f"  {clean(summary.cause or 'problem')}: ", _STYLES[summary.condition]), (clean(summary.problem), "")]
        )
    return lines


def _backlog_text(backlog: Backlog, now: float) -> str:
    age = f", the oldest {duration(now - backlog.oldest_at)} old" if backlog.oldest_at else ""
    return f"{rows(backlog.row_count)}, {size(backlog.csv_bytes)}{age}"


def _totals(found: Sequence[Summary]) -> Line:
    """One line: how many runs in which state, and the next command if there is one."""
    numbers = Counter(summary.condition for summary in found)
    text = ", ".join(f"{numbers[condition]} {condition.value}" for condition in Condition if numbers[condition])
    text = f"{len(found)} run{'' if len(found) == 1 else 's'}: {text}."
    if numbers[Condition.WAITING]:
        text += " To deliver: tracker-stream drain"
    return [(text, "")]


def _details(summary: Summary) -> list[Line]:
    """One run, line by line."""
    now, run = time.time(), summary.run
    facts: list[tuple[str, str]] = [("state", summary.condition.value)]
    if run:
        facts += [
            (name, str(value)) for name, value in run.metadata.items() if value and name not in ("command", "tags")
        ]
        command, tags = run.metadata.get("command"), run.metadata.get("tags")
        if command:
            facts.append(("command", " ".join(map(str, command)) if isinstance(command, list) else str(command)))
        facts += [("tag", f"{key}={value}") for key, value in (tags.items() if isinstance(tags, dict) else ())]
        facts += [
            ("run id", run.registration.run_id if run.registration else "not registered yet"),
            ("started", moment(run.started_at)),
            ("ended", f"{moment(run.ended_at)} {run.run_status or ''}".rstrip()),
            ("duration", duration(summary.duration_s(now))),
            ("exit code", "-" if run.exit_code is None else str(run.exit_code)),
            ("service", run.api_url or "-"),
            *([("page", page)] if (page := run.page_url) else []),
        ]
    facts += [
        ("rows", f"{count(summary.counts.recorded)} recorded, {count(summary.counts.sent)} sent"),
        ("waiting", _backlog_text(summary.backlog, now) if summary.counts.waiting else "nothing"),
        ("objects", count(summary.counts.objects)),
        ("file", str(summary.path)),
    ]
    facts += _used(summary)
    if summary.counts.rejected:
        facts.append(("set aside", rows(summary.counts.rejected)))
    if summary.lost_row_count:
        facts.append(("lost", f"{rows(summary.lost_row_count)} that could not be kept"))
    if summary.problem:
        facts.append((summary.cause or "problem", summary.problem))
    style = {"state": _STYLES[summary.condition], summary.cause or "problem": _STYLES[summary.condition]}
    lines: list[Line] = [[(f"run {clean(summary.name)}", "bold")]]
    lines += [[(f"  {clean(name) + ':':<16} ", ""), (clean(text), style.get(name, ""))] for name, text in facts]
    return lines


def _used(summary: Summary) -> list[tuple[str, str]]:
    """What a run that has ended used of what it was given, where that is known."""
    has_ended = summary.run is not None and summary.run.ended_at is not None
    return list(told(used_by([summary])).items()) if has_ended else []


def _watch(look: Callable[[], list[Summary]], in_directory: Path, *, expand: bool) -> None:
    """Until Ctrl-C: the table in place on a terminal, one line every half minute elsewhere."""
    screen = stdout()
    if not screen.can_redraw:
        while True:
            screen.write([[(f"{moment(time.time())} ", ""), *_totals(look())]])
            time.sleep(PLAIN_WATCH_S)
    try:
        with screen.live():
            while True:
                screen.show(_table(look(), in_directory, screen, expand=expand))
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        stderr().say("")
        raise
