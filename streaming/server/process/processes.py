"""A process known by pid and start time, so that only a process we started is ever ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from streaming.server.errors import ServerError

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessId:
    """`started` tells this process from a later one with the same pid, also across a reboot."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify a running process; raises ServerError if it has ended."""
        started = _start_mark(pid)
        if started is None:
            raise ServerError(f"Process {pid} has ended.")
        return cls(pid, started)

    def is_running(self) -> bool:
        """A zombie counts as ended."""
        return _start_mark(self.pid) == self.started

    def send(self, signal_number: signal.Signals) -> bool:
        """Signal it if it is still the process we know; False if it has ended."""
        if not self.is_running():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal_number)
        return True

    def wait_ended(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _start_mark(pid: int) -> str | None:
    return _procfs_mark(pid) if (_PROC / "self" / "stat").exists() else _ps_mark(pid)


def _procfs_mark(pid: int) -> str | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and parentheses
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}:{ticks}"


def _ps_mark(pid: int) -> str | None:
    """The portable fallback, for systems without procfs."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    state, _, started = result.stdout.strip().partition(" ")
    return None if result.returncode != 0 or state.startswith("Z") else started.strip()
