"""What our processes ask of the operating system: waiting, a clock that never jumps, no core dumps."""

from __future__ import annotations

import os
import resource
import select
import time
from contextlib import suppress

from streaming.config import LONGEST_WAIT_S


def forbid_core_dumps() -> None:
    """Let no crash of this process write its memory to disk."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_pid(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (pidfd), None where the system has none."""
    if not hasattr(os, "pidfd_open"):
        return None
    with suppress(OSError):
        return os.pidfd_open(pid)
    return None


def wait_readable(descriptors: list[int], timeout_s: float) -> list[int]:
    """Those of the descriptors that are readable (or closed at the other end) within `timeout_s` seconds.

    None may also mean that LONGEST_WAIT_S have passed.
    """
    timeout_s = min(max(0.0, timeout_s), LONGEST_WAIT_S)
    if not descriptors:
        time.sleep(timeout_s)
        return []
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return [descriptor for descriptor, _ in poll.poll(timeout_s * 1000)]


def seconds_since_boot() -> float:
    """A clock that never jumps and, where the system has one, goes on while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
