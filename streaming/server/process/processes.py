"""A process known by pid and start time, so that only a process we started is ever ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from spool import system
from streaming.server.errors import ServerError


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
    """None once it has ended, also as a zombie."""
    started = system.process_started_at(pid)
    return None if started is None else f"{system.boot_id()}:{started}"
