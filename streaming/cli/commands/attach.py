"""`tracker-stream attach`: track a process that somebody else started, until it ends or Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from spool import Spool, system
from streaming import config
from streaming.cli import INTERRUPTED, options
from streaming.cli.commands.recording_options import RunOptions, detect_placement, run_options
from streaming.cli.commands.run_report import RunReporter
from streaming.cli.terminal.log import log_to_stderr
from streaming.cli.terminal.screen import stderr
from streaming.config import HURRY_S, Mode
from streaming.processes.system import wait_readable
from streaming.record.recorder import Recorder
from streaming.record.tracker import Tracking

log = logging.getLogger(__name__)
_TERMINATED = 128 + 15


class CannotAttach(click.ClickException):
    """The process cannot be tracked; says why."""


@click.command()
@options.with_settings(*config.RECORDING, is_recording=True)
@click.option("--pid", type=click.IntRange(min=1), required=True, metavar="N", help="Process id.")
def attach(pid: int, unusable: Mapping[str, str], **given: Any) -> None:
    """Track a process that is already running, until it ends or Ctrl-C.

    The process is never signalled, and goes on when the tracking stops. Its exit code cannot be known, so the run ends as
    finished, without one.

    \b
    Example: tracker-stream attach --pid 4711 --job-name train
    """
    log_to_stderr(stderr(), quiet=given["quiet"])
    words = _require_process(pid)
    if Mode(given["mode"]) is Mode.DISABLED:
        click.echo("tracker-stream: nothing is recorded (mode disabled)", err=True)
        return
    wanted = run_options(given, words, detect_placement(), unusable)
    sys.exit(_track(pid, Spool.create(wanted.plan.spool_dir, wanted.plan.new_run(os.getpid())), wanted))


def _require_process(pid: int) -> list[str]:
    """The command line of the process. Raises CannotAttach if there is none, or none that can be tracked."""
    if system.process_started_at(pid) is None:
        hint = "it has ended, or you may not see it" if Path("/proc/self").exists() else "it has ended"
        raise CannotAttach(f"there is no process {pid}: {hint} (see: ps -p {pid})")
    if not Path("/proc/self").exists():
        return []
    words = [word for word in _read(pid, "cmdline").decode("utf-8", "replace").split("\0") if word]
    if b"VmRSS" not in _read(pid, "status"):
        raise CannotAttach(f"process {pid} is a kernel thread or has no memory of its own: there is nothing to track")
    if not _may_look_inside(pid):
        log.warning(
            "process %d belongs to another user: its disk I/O is not visible to you, and its memory only roughly"
            " (run this as its owner to see all)",
            pid,
        )
    return words


def _read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def _may_look_inside(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


class _StopSignals:
    """Which signal asks us to stop, if any. The first one ends the tracking, a second one the wait for the delivery."""

    def __init__(self) -> None:
        self.count = 0
        self.exit_code = 0
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.signal(signal.SIGINT, lambda *_: self._note(INTERRUPTED))
        signal.signal(signal.SIGTERM, lambda *_: self._note(_TERMINATED))

    def _note(self, code: int) -> None:
        self.count += 1
        self.exit_code = self.exit_code or code
        os.write(self._write, b"!")

    def wait(self, seconds: float) -> bool:
        """Whether we were asked to stop within so many seconds."""
        return bool(self.count or wait_readable([self._read], max(0.0, seconds)))


def _track(pid: int, spool: Spool, wanted: RunOptions) -> int:
    began_at = time.monotonic()
    with closing(Recorder.adopt(spool, wanted.plan.delivery)) as recorder:
        ending = _StopSignals()
        reporter = RunReporter(wanted, recorder, stderr())
        reporter.tell_start(f"process {pid}")
        who = system.identify(pid)
        tracking = Tracking(recorder, pid, interval_s=wanted.plan.interval_s, on_sample=reporter.usage.add)
        while not ending.wait(tracking.wait_s()):
            if not system.is_alive(who) or not tracking.tick_if_due():
                break
            reporter.look()
        tracking.end(exit_code=None, run_status="finished")
        ended_after_s = time.monotonic() - began_at
        stops = ending.count
        recorder.wait_finished(
            min(wanted.exit_wait_s, HURRY_S) if stops else wanted.exit_wait_s,
            is_over=lambda: ending.count > stops,
            on_wait=reporter.tell_wait,
        )
        reporter.tell_end(f"process {pid} {'left' if stops else 'has ended'}", ended_after_s)
    return ending.exit_code
