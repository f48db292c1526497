"""What a drain made of its runs: a line for each on stdout, and the exit code of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from spool import directory
from streaming.cli.terminal.screen import Screen
from streaming.read.quantity import count, duration
from streaming.read.status import Condition, Summary
from streaming.upload.drain import Result
from streaming.upload.model import Outcome

REFUSED_FOR_GOOD, STILL_WAITING, TOKEN_REFUSED = 1, 3, 4
SET_ASIDE = (Condition.FAILED, Condition.DAMAGED)


def tell_results(
    results: Sequence[Result],
    before: dict[Path, Summary],
    after: dict[Path, Summary],
    out: Screen,
    *,
    spared: bool = False,
) -> None:
    """One line per run, on stdout: its name, how many rows went, how many wait, what became of it, and why.

    `spared`: --ended was said, but of no run by name.
    """
    for result in results:
        sent = after[result.path].counts.sent - (before[result.path].counts.sent if result.path in before else 0)
        text = f"{result.path.stem}  {count(max(0, sent))} sent"
        if waiting := after[result.path].counts.waiting:
            text += f", {count(waiting)} waiting"
        if rejected := after[result.path].counts.rejected:
            text += f", {count(rejected)} set aside"
        text += f"  {_word(result, after[result.path])}"
        why = result.problem or _why_open(result, after[result.path], spared=spared)
        out.say(f"{text}: {why}" if why else text)


def _why_open(result: Result, after: Summary, *, spared: bool) -> str | None:
    """What a run that was uploaded, yet not finished, waits for; None if it is plainly being recorded."""
    if result.outcome is not Outcome.UPLOADED:
        return None
    if spared and after.silent_s is not None:
        seen = f"its tracker was seen {duration(after.silent_s)} ago"
        return f"not ended, {seen}; to end it now: tracker-stream drain --ended {directory.short_name(result.path)}"
    return after.problem if after.condition is Condition.SILENT else None


def _word(result: Result, after: Summary) -> str:
    if result.outcome is Outcome.NOT_TRIED:
        return Outcome.WAITING.value
    if result.outcome is Outcome.DELIVERED and after.condition is not Condition.DELIVERED:
        return str(after.condition.value)
    return str(result.outcome.value)


def exitcode_of(results: Iterable[Result], after: dict[Path, Summary]) -> int:
    """What is worth knowing first: a refused token, then what trying again can mend, then what it cannot."""
    codes = {code_of(result, after[result.path]) for result in results}
    return next((code for code in (TOKEN_REFUSED, STILL_WAITING, REFUSED_FOR_GOOD) if code in codes), 0)


def code_of(result: Result, after: Summary) -> int:
    if result.outcome is Outcome.TOKEN_REFUSED:
        return TOKEN_REFUSED
    if result.outcome in (Outcome.PARKED, Outcome.ERROR) or after.condition in SET_ASIDE:
        return REFUSED_FOR_GOOD
    if result.outcome in (Outcome.WAITING, Outcome.NOT_TRIED) or after.condition is Condition.SILENT:
        return STILL_WAITING
    is_elsewhere = result.outcome is Outcome.BUSY and after.condition is Condition.WAITING
    return STILL_WAITING if is_elsewhere else 0
