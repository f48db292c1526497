"""`tracker-stream run`: track a command from its start to its end, and leave with its exit code."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import click

from spool import Spool, SpoolError
from streaming import config
from streaming.cli import options
from streaming.cli.commands import recording
from streaming.cli.commands.recording import Wish, Witness
from streaming.cli.terminal.log import log_to_stderr
from streaming.cli.terminal.screen import stderr
from streaming.config import Mode
from streaming.record.command import CannotStart, Command
from streaming.record.recorder import Recorder
from streaming.record.tracker import Tracking
from streaming.upload.wait import HURRY_S

log = logging.getLogger(__name__)


class RunCommand(click.Command):
    """Tells what is missing when an option of CMD is taken for one of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"{error.format_message()} Options of the command itself come after it: tracker-stream run [OPTIONS] -- CMD",
                ctx,
            ) from error


@click.command(cls=RunCommand, context_settings={"allow_interspersed_args": False})
@options.with_settings(*config.RECORDING, is_recording=True)
@click.option("--only-local-rank", type=int, metavar="N", help="Track only this local rank of a distributed job.")
@click.argument("command", metavar="[--] CMD...", nargs=-1, type=click.UNPROCESSED, required=True)
def run(command: tuple[str, ...], only_local_rank: int | None, unusable: Mapping[str, str], **given: Any) -> None:
    """Track CMD and leave with its exit code.

    CMD keeps its stdin, stdout, stderr and signals. Without a token nothing is sent and nothing fails: rows are kept,
    and `tracker-stream drain` delivers them later. The exit code is CMD's; 128 + N if signal N ended it, 127 if it was not
    found, 126 if it could not be started.

    \b
    Example: tracker-stream run --job-name train --tag fold=3 -- python train.py
    """
    where = recording.where_am_i()
    is_other_rank = only_local_rank is not None and where.local_rank not in (None, only_local_rank)
    if Mode(given["mode"]) is Mode.DISABLED or is_other_rank:
        _replace_by(command)
    log_to_stderr(stderr(), quiet=given["quiet"])
    wish = recording.understand(given, list(command), where, unusable)
    spool = _create_spool(wish)
    try:
        running = Command(command)
    except CannotStart as error:
        click.echo(f"tracker-stream: {error.reason}", err=True)
        _end_unstarted(spool, wish, error.exit_code)
        sys.exit(error.exit_code)
    sys.exit(_wait(running) if spool is None else _track(running, spool, wish, command))


def _replace_by(command: tuple[str, ...]) -> None:
    """Become the command: nothing of ours is left."""
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command must not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        found = CannotStart.of(command[0], error)
        click.echo(f"tracker-stream: {found.reason}", err=True)
        sys.exit(found.exit_code)


def _create_spool(wish: Wish) -> Spool | None:
    """Tracking must not keep the command from running: without a spool it runs untracked, and that is said."""
    try:
        return Spool.create(wish.plan.spool_dir, wish.plan.new_run(os.getpid()))
    except (SpoolError, OSError) as error:
        click.echo(f"tracker-stream: this run is NOT recorded: {error}", err=True)
        return None


def _end_unstarted(spool: Spool | None, wish: Wish, exit_code: int) -> None:
    """A run without a command is a failed one. Its uploader delivers it; nobody waits for that."""
    if spool is not None:
        with closing(Recorder.adopt(spool, wish.plan.delivery)) as recorder:
            recorder.end(exit_code=exit_code, run_status="failed", ended_at=time.time())


def _wait(running: Command) -> int:
    while (exit_code := running.wait(3600.0)) is None:
        pass
    return exit_code


def _track(running: Command, spool: Spool, wish: Wish, command: tuple[str, ...]) -> int:
    """The command runs already; whatever goes wrong with tracking from here on, its exit code is ours."""
    began_at = time.monotonic()
    exit_code: int | None = None
    try:
        with closing(Recorder.adopt(spool, wish.plan.delivery)) as recorder:
            witness = Witness(wish, recorder, stderr())
            witness.tell_start(os.path.basename(command[0]))
            tracking = Tracking(recorder, running.pid, interval_s=wish.plan.interval_s, on_sample=witness.usage.add)
            while (exit_code := running.wait(max(0.0, tracking.next_at - time.monotonic()))) is None:
                tracking.tick()
                witness.look()
            tracking.end(exit_code=exit_code, run_status="finished" if exit_code == 0 else "failed")
            ended_after_s = time.monotonic() - began_at
            recorder.wait_finished(_exit_wait_s(wish, exit_code), is_over=running.was_asked_to_stop)
            witness.tell_end(f"exit {exit_code}", ended_after_s)
    except SpoolError as error:
        log.error("recording has ended early, what is in %s is kept: %s", spool.path, error)
    except Exception:
        log.exception("recording has ended early, what is in %s is kept (please report this defect)", spool.path)
    return _wait(running) if exit_code is None else exit_code


def _exit_wait_s(wish: Wish, exit_code: int) -> float:
    """A command that a signal ended is followed by SIGKILL soon, as SLURM does it: do not wait that long."""
    return min(wish.exit_wait_s, HURRY_S) if exit_code > 128 else wish.exit_wait_s
