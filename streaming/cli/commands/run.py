"""`tracker-stream run`: track a command from its start to its end, and leave with its exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from spool import Spool, SpoolError, directory, ownership
from spool.errors import Owned
from streaming import config
from streaming.cli import options
from streaming.cli.commands.recording_options import RunOptions, detect_placement, run_options
from streaming.cli.commands.run_report import RunReporter, Usage
from streaming.cli.terminal.log import log_to_stderr
from streaming.cli.terminal.screen import stderr
from streaming.collect.job_processes import JobProcesses
from streaming.collect.sampler import Use
from streaming.config import HURRY_S, Mode
from streaming.record.command import CannotStart, Command, Ended, wait_for_stop
from streaming.record.recorder import Recorder
from streaming.record.tracker import Tracking

OTHERS_LOOK_S = 0.2
LEAVE_S = 10.0  # for a recording that hangs after the command's end and the wait for the delivery

log = logging.getLogger(__name__)
_held = ExitStack()  # until this process ends: the kernel releases it then, whatever ended us


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
@click.option(
    "--scope",
    type=click.Choice(["process", "node"]),
    default="process",
    help="node: one tracker for all processes of the job on this node.",
)
@click.argument("command", metavar="[--] CMD...", nargs=-1, type=click.UNPROCESSED, required=True)
def run(
    command: tuple[str, ...], only_local_rank: int | None, scope: str, unusable: Mapping[str, str], **given: Any
) -> None:
    """Track CMD and leave with its exit code.

    CMD keeps its stdin, stdout, stderr and signals. Without a token nothing is sent and nothing fails: rows are kept on
    disk, and `tracker-stream drain` delivers them later. The exit code is CMD's; 128 + N if signal N ended it, 127 if it
    was not found, 126 if it could not be started.

    With --scope node the first of a job's processes on a node records all of them and, if its own CMD succeeded, stays
    until the last one has ended; the others are replaced by their CMD.

    \b
    Example: tracker-stream run --job-name train --tag fold=3 -- python train.py
    """
    where = detect_placement()
    is_other_rank = only_local_rank is not None and where.local_rank not in (None, only_local_rank)
    if Mode(given["mode"]) is Mode.DISABLED or is_other_rank:
        _replace_by(command)
    log_to_stderr(stderr(), quiet=given["quiet"])
    job = JobProcesses(os.environ) if scope == "node" else None
    if job is not None and not job:
        log.warning("it is not known which job this belongs to: --scope node records this command alone")
        job = None
    if job is not None:
        where = where.of_node(os.environ)
    wanted = run_options(given, list(command), where, unusable)
    if job is not None and not _is_first_on_node(wanted.plan.spool_dir, job.key):
        _replace_by(command)
    spool = _create_spool(wanted)
    try:
        running = Command(command)
    except CannotStart as error:
        click.echo(f"tracker-stream: {error.reason}", err=True)
        _end_unstarted(spool, wanted, error.exit_code)
        sys.exit(error.exit_code)
    if spool is None:
        sys.exit(running.wait().exit_code)
    sys.exit(_record(running, _Recording(running, spool, wanted, os.path.basename(command[0]), job), job))


def _is_first_on_node(in_directory: Path, job_key: str) -> bool:
    """One tracker for all that a job runs on a node: the first of its processes takes a lock, for as long as it lives.

    The lock is a file of the spool directory, which nobody else may enter; nodes that share it have host names of their own.
    Where no lock can be had, each is the first: rather recorded twice than not at all.
    """
    try:
        directory.prepare(in_directory)
        _held.enter_context(ownership.own(in_directory / f"node-{os.uname().nodename}-{job_key}{directory.SUFFIX}"))
    except Owned:
        return False
    except SpoolError:
        pass  # told where the spool is made
    return True


def _replace_by(command: tuple[str, ...]) -> None:
    """Become the command: nothing of ours is left."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command must not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        found = CannotStart.of(command[0], error)
        click.echo(f"tracker-stream: {found.reason}", err=True)
        sys.exit(found.exit_code)


def _create_spool(wanted: RunOptions) -> Spool | None:
    """Tracking must not keep the command from running: without a spool it runs untracked, and that is said."""
    try:
        return Spool.create(wanted.plan.spool_dir, wanted.plan.new_run(os.getpid()))
    except Exception as error:  # noqa: BLE001 - also a library that cannot be loaded
        click.echo(f"tracker-stream: this run is NOT recorded: {error}", err=True)
        return None


def _end_unstarted(spool: Spool | None, wanted: RunOptions, exit_code: int) -> None:
    """A run without a command is a failed one. Its uploader delivers it; nobody waits for that."""
    if spool is not None:
        with closing(Recorder.adopt(spool, wanted.plan.delivery)) as recorder:
            recorder.end(exit_code=exit_code, run_status="failed", ended_at=time.time())


def _record(running: Command, recording: _Recording, job: JobProcesses | None) -> int:
    """The command runs already; whatever goes wrong with recording from here on, its exit code is ours.

    It is recorded by a thread of its own, so that its end and its signals are seen at once, whatever a sample waits for.
    """
    recording.start()
    ended = running.wait()
    is_last = job is None or ended.exit_code != 0
    recording.end(ended if is_last or job is None else _wait_for_others(job, running.pid, ended, recording))
    ended_at = time.monotonic()
    while not recording.is_done and (left_s := ended_at + recording.patience_s - time.monotonic()) > 0:
        if wait_for_stop(left_s) is not None:
            recording.was_asked_to_stop.set()
    return ended.exit_code


def _wait_for_others(job: JobProcesses, pid: int, ended: Ended, recording: _Recording) -> Ended:
    """The end of the last one of the job on this node, unless we are asked to stop before: that is the job's end, then."""
    while job.others(pid):
        if (number := wait_for_stop(OTHERS_LOOK_S)) is not None:
            recording.was_asked_to_stop.set()
            return replace(ended, exit_code=128 + number, at=time.time())
    return replace(ended, at=time.time())


class _Recording(threading.Thread):
    """Samples the command until it is told how that ended, records the end, waits for the delivery."""

    def __init__(
        self, running: Command, spool: Spool, wanted: RunOptions, name: str, job: JobProcesses | None = None
    ) -> None:
        super().__init__(name="tracker-stream-recording", daemon=True)
        self._running = running
        self._spool = spool
        self._wanted = wanted
        self._name = name
        self._measure = job.measure if job is not None else None
        self._ended: Ended | None = None
        self._has_ended = threading.Event()
        self.was_asked_to_stop = threading.Event()
        self._has_recorded_end = False
        self.is_done = False

    def end(self, ended: Ended) -> None:
        self._ended = ended
        self._has_ended.set()

    @property
    def patience_s(self) -> float:
        """How long after the command's end we stay at most: less if a sample hangs, or if we were asked to stop."""
        waits = self._has_recorded_end and not self.was_asked_to_stop.is_set()
        return LEAVE_S + (self._exit_wait_s() if waits else 0.0)

    def _exit_wait_s(self) -> float:
        """A command that a signal ended is followed by SIGKILL soon, as SLURM does it: do not wait that long."""
        is_signalled = self._ended is not None and self._ended.exit_code > 128
        return min(self._wanted.exit_wait_s, HURRY_S) if is_signalled else self._wanted.exit_wait_s

    def run(self) -> None:
        try:
            usage = Usage()
            tracking = self._begin(usage)
            with closing(Recorder.adopt(self._spool, self._wanted.plan.delivery)) as recorder:
                tracking.recorder = recorder
                self._record(tracking, RunReporter(self._wanted, recorder, stderr(), usage), recorder)
        except SpoolError as error:
            log.error("recording has ended early, what is in %s is kept: %s", self._spool.path, error)
        except Exception:
            path = self._spool.path
            log.exception("recording has ended early, what is in %s is kept (please report this defect)", path)
        finally:
            self.is_done = True
            _wake_main_thread()

    def _begin(self, usage: Usage) -> Tracking:
        """The first sample does not wait for what delivers the rows: that takes its time."""
        tracking = Tracking(
            None,
            self._running.pid,
            interval_s=self._wanted.plan.interval_s,
            on_sample=usage.add,
            since=Use(self._running.started_at),
            peaks_below_mib=0.0 if self._measure else self._running.peaks_above_kib / 1024,
            measure_process=self._measure,
        )
        if not self._has_ended.wait(tracking.wait_s()):
            tracking.tick()
        return tracking

    def _record(self, tracking: Tracking, reporter: RunReporter, recorder: Recorder) -> None:
        reporter.tell_start(self._name)
        while not self._has_ended.wait(tracking.wait_s()):
            tracking.tick_if_due()
            reporter.look()
        if (ended := self._ended) is None:
            return
        tracking.end(
            exit_code=ended.exit_code,
            run_status="finished" if ended.exit_code == 0 else "failed",
            ended_at=ended.at,
            total=Use.of(ended.usage, ended.at, known_above_kib=self._running.peaks_above_kib),
        )
        self._has_recorded_end = True
        _wake_main_thread()
        recorder.wait_finished(self._exit_wait_s(), is_over=self.was_asked_to_stop.is_set, on_wait=reporter.tell_wait)
        reporter.tell_end(f"exit {ended.exit_code}", ended.at - self._running.started_at)


def _wake_main_thread() -> None:
    """It waits for signals only, and this one is blocked."""
    os.kill(os.getpid(), signal.SIGCHLD)
