"""What a drain made of its runs: a line for each on stdout, in the words of `status`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from spool import directory
from streaming.cli.terminal.screen import Screen
from streaming.read.quantity import count, duration
from streaming.read.status import NO_TOKEN, Summary, summarize
from streaming.upload.drain import Result
from streaming.upload.model import Outcome


def state_after(result: Result) -> Summary:
    """The run's state, with what the drain has met: a problem that goes on is noted in the spool only after its attempt."""
    after = summarize(result.path)
    if not result.problem and after.cause == NO_TOKEN:  # the drain has one
        return replace(after, problem=None, cause=None)
    if not result.problem or after.is_finished or (result.outcome is Outcome.BUSY and after.exit_code == 0):
        return after
    return replace(after, problem=result.problem, cause=result.cause)


def tell_results(
    runs: Iterable[Summary], before: dict[Path, Summary], out: Screen, *, spares_recent: bool = False
) -> None:
    """One line per run, on stdout: its name, how many rows went, how many wait, what became of it, and why.

    `spares_recent`: --ended was said, but of no run by name.
    """
    for run in runs:
        sent = run.counts.sent - (before[run.path].counts.sent if run.path in before else 0)
        text = f"{run.name}  {count(max(0, sent))} sent"
        if run.counts.waiting:
            text += f", {count(run.counts.waiting)} waiting"
        if run.counts.rejected:
            text += f", {count(run.counts.rejected)} set aside"
        why = _how_to_end(run) if spares_recent and run.silent_s is not None else run.problem
        state = run.condition.value
        said = [state, why] if why and not why.startswith(state) else [why or state]  # "silent for 4 min" says both
        out.say(f"{text}  {': '.join(said)}")


def _how_to_end(run: Summary) -> str:
    seen = f"its tracker was seen {duration(run.silent_s)} ago"
    return f"not ended, {seen}; to end it now: tracker-stream drain --ended {directory.short_name(run.path)}"
