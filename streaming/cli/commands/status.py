"""`tracker-stream status`: what is recorded, what arrived, what waits and why."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from spool import directory
from spool.model import iso_utc
from streaming.cli import options
from streaming.cli.terminal.quantity import count, duration, moment, rows, short_moment, size
from streaming.cli.terminal.screen import Screen, stderr, stdout
from streaming.cli.terminal.table import Column, Line, Span, clean, lay_out
from streaming.read.status import Condition, Summary, summaries, summarize

SCHEMA_VERSION = 1
WATCH_S = 2.0
PLAIN_WATCH_S = 30.0
SOMETHING_WAITS = 3

_STYLES = {
    Condition.RECORDING: "cyan",
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
    Column("ROWS", align_right=True),
    Column("SENT", align_right=True),
    Column("WAITING", align_right=True),
)


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option("--watch", is_flag=True, help="Stay and keep it up to date, until Ctrl-C.")
@click.option("--check", is_flag=True, help="Exit with 3 when anything is not delivered.")
@click.option("--spool-dir", envvar="TRACKER_STREAM_DIR", show_envvar=True, metavar="DIR", help="Where runs are kept.")
def status(runs: tuple[str, ...], as_json: bool, watch: bool, check: bool, spool_dir: str | None) -> None:
    """Show what is recorded, what arrived, what waits and why.

    A run is recording, waiting (ended, not all delivered), delivered, failed (something was refused for good), damaged (rows
    fail their checksums) or unreadable. RUN is its name, or any part of it that is unique.

    \b
    Example: tracker-stream status --check
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people and --json for programs: use one of them.")
    in_directory = options.spool_directory(spool_dir)

    def look() -> list[Summary]:
        if not runs:
            return summaries(in_directory)
        return [summarize(path) for path in dict.fromkeys(directory.find_spool(in_directory, name) for name in runs)]

    found = look()
    if watch:
        _watch(look, in_directory)
    elif as_json:
        click.echo(json.dumps(_document(found, in_directory), indent=2, ensure_ascii=True))
    else:
        screen = stdout()
        details = len(runs) == 1 and len(found) == 1
        screen.write(_details(found[0]) if details else _table(found, in_directory, screen))
    sys.exit(SOMETHING_WAITS if check and any(summary.is_left for summary in found) else 0)


def _document(found: Sequence[Summary], in_directory: Path) -> dict[str, Any]:
    now = time.time()
    return {
        "schema_version": SCHEMA_VERSION,
        "generated_at": iso_utc(now),
        "spool_dir": str(in_directory),
        "runs": [summary.as_json(now) for summary in found],
    }


def _table(found: Sequence[Summary], in_directory: Path, screen: Screen) -> list[Line]:
    if not found:
        return [[(f"No runs in {clean(in_directory)}.", "")]]
    now = time.time()
    table = lay_out(_COLUMNS, [_cells(summary, now) for summary in found], width=screen.width, ellipsis=screen.ellipsis)
    lines = table[:1]
    for summary, line in zip(found, table[1:], strict=True):
        lines += [line, *_reasons(summary, now)]
    return [*lines, [], _totals(found)]


def _cells(summary: Summary, now: float) -> list[Span]:
    waiting, style = summary.counts.waiting + summary.counts.rejected, _STYLES[summary.condition]
    run = summary.run
    return [
        (clean(summary.short_name), ""),
        (clean(summary.job_name or "-"), ""),
        (summary.condition.value, style),
        (short_moment(run.started_at if run else None, now), ""),
        (duration(summary.duration_s(now)), ""),
        (count(summary.counts.recorded), ""),
        (count(summary.counts.sent), ""),
        (count(waiting), style if waiting else ""),
    ]


def _reasons(summary: Summary, now: float) -> list[Line]:
    """Below a run that is not delivered: how much waits since when; what stands in the way."""
    lines: list[Line] = []
    if summary.counts.waiting and summary.condition is not Condition.DELIVERED:
        lines.append([(f"  waiting: {_backlog_text(summary, now)}", "dim")])
    if summary.problem:
        lines.append(
            [(f"  {clean(summary.cause or 'problem')}: ", _STYLES[summary.condition]), (clean(summary.problem), "")]
        )
    return lines


def _backlog_text(summary: Summary, now: float) -> str:
    backlog = summary.backlog
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
        if run.metadata.get("command"):
            facts.append(("command", " ".join(map(str, run.metadata["command"]))))
        facts += [("tag", f"{key}={value}") for key, value in (run.metadata.get("tags") or {}).items()]
        facts += [
            ("run id", run.registration.run_id if run.registration else "not registered yet"),
            ("started", moment(run.started_at)),
            ("ended", f"{moment(run.ended_at)} {run.run_status or ''}".rstrip()),
            ("duration", duration(summary.duration_s(now))),
            ("exit code", "-" if run.exit_code is None else str(run.exit_code)),
            ("service", run.api_url or "-"),
        ]
    facts += [
        ("rows", f"{count(summary.counts.recorded)} recorded, {count(summary.counts.sent)} sent"),
        ("waiting", _backlog_text(summary, now) if summary.counts.waiting else "nothing"),
        ("objects", count(summary.counts.objects)),
        ("file", str(summary.path)),
    ]
    if summary.counts.rejected:
        facts.append(("set aside", rows(summary.counts.rejected)))
    if summary.problem:
        facts.append((summary.cause or "problem", summary.problem))
    style = {"state": _STYLES[summary.condition], summary.cause or "problem": _STYLES[summary.condition]}
    lines: list[Line] = [[(f"run {clean(summary.name)}", "bold")]]
    lines += [[(f"  {clean(name) + ':':<16} ", ""), (clean(text), style.get(name, ""))] for name, text in facts]
    return lines


def _watch(look: Callable[[], list[Summary]], in_directory: Path) -> None:
    """Until Ctrl-C: the table in place on a terminal, one line every half minute elsewhere."""
    screen = stdout()
    if not screen.can_redraw:
        while True:
            screen.write([[(f"{moment(time.time())} ", ""), *_totals(look())]])
            time.sleep(PLAIN_WATCH_S)
    try:
        with screen.live():
            while True:
                screen.show(_table(look(), in_directory, screen))
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        stderr().say("")
        raise
