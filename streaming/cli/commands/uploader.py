"""`tracker-stream uploader`: the process that delivers the runs of a directory, to be looked at and ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from streaming.cli import options
from streaming.cli.terminal.screen import stdout
from streaming.config import HURRY_S, SPOOL_DIR
from streaming.processes import engine_link
from streaming.processes.engine_link import Event
from streaming.read.quantity import count, duration

STILL_THERE = 3


@click.group()
def uploader() -> None:
    """Show or stop the process that delivers the runs of a directory. It starts and ends by itself.

    \b
    Example: tracker-stream uploader status
    """


@uploader.command()
@options.with_settings(SPOOL_DIR)
def status(spool_dir: Path) -> None:
    """Show which processes deliver, since when, and what they are doing.

    \b
    Example: tracker-stream uploader status
    """
    found = engine_link.ask_all(spool_dir)
    for each in found:
        stdout().say(sentence(each))
    if not found:
        stdout().say(f"No uploader serves {spool_dir}; the next run, or drain, starts one.")


@uploader.command()
@options.with_settings(SPOOL_DIR)
def stop(spool_dir: Path) -> None:
    """Stop it in order: what is recorded so far is sent, for 20 seconds at most.

    The next run, or drain, starts another one.

    \b
    Example: tracker-stream uploader stop
    """
    number, left = engine_link.stop_all(spool_dir, timeout_s=HURRY_S + 5.0)
    if not number:
        stdout().say(f"No uploader serves {spool_dir}.")
    elif left:
        stdout().say(f"{left} of {number} did not end in time; see: tracker-stream uploader status")
        sys.exit(STILL_THERE)
    else:
        stdout().say("The uploader has ended; the next run, or drain, starts another one.")


def sentence(engine: Event) -> str:
    """One line for people on an engine, by what it says of itself."""
    runs = engine["runs"]
    what = f"{count(len(runs))} run{'' if len(runs) == 1 else 's'}"
    if running := sum(run["is_running"] for run in runs):
        now = f"{running} being delivered now"
    else:
        ahead = [run["next_at"] - time.time() for run in runs if run["next_at"] is not None]
        now = f"next turn in {duration(max(0.0, min(ahead)))}" if ahead else "waiting for the next one"
    problem = next((f"; {run['problem']}" for run in runs if run["problem"]), "")
    return f"Uploader: pid {engine['pid']}, for {duration(time.time() - engine['since'])}; {what}, {now}{problem}"
