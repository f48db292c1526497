"""A running process of ours as its starter sees it: two pipes, and its pid where a pipe is lost.

The pipes live in the user's program, which may close them, reuse their numbers, or have asked to die of SIGPIPE.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from spool import system
from streaming.processes.system import wait_readable

FIRST_DESCRIPTOR = 3  # 0 to 2 are the program's, also if it has closed them
BLIND_POLL_S = 0.05


class PipeEnd:
    """One end of a pipe of ours, for as long as it is ours: a program may close every descriptor behind our back (as
    daemons do), and open its own files under the same numbers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._identity = _file_identity(descriptor)

    def get(self) -> int | None:
        """The descriptor, None if it is closed or has become somebody else's."""
        is_ours = self._descriptor >= 0 and _file_identity(self._descriptor) == self._identity
        return self._descriptor if is_ours else None

    def close(self) -> None:
        """Harmless twice, and when it is not ours any more."""
        descriptor, self._descriptor = self.get(), -1
        if descriptor is not None:
            os.close(descriptor)


def _file_identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Child:
    """A running process of ours: its pid, and both pipes. Usable from any thread of the process that started it."""

    def __init__(self, pid: int, *, orders: PipeEnd, orders_read: PipeEnd, end: PipeEnd) -> None:
        self.pid = pid
        self._started_at = system.process_started_at(pid)
        self._orders = orders
        self._orders_read = orders_read  # held open: else telling a dead child is a SIGPIPE, deadly to some programs
        self._end = end
        self._has_ended = False

    def is_alive(self) -> bool:
        """Whether it still works for us."""
        return not self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended its work for us. False after `timeout_s` seconds, or a little before."""
        if not self._has_ended:
            end = self._end.get()
            # Readable means closed at the other end: by its death, or on purpose when its work for us is done.
            self._has_ended = self._wait_blindly(timeout_s) if end is None else bool(wait_readable([end], timeout_s))
        return self._has_ended

    def _wait_blindly(self, timeout_s: float) -> bool:
        """The pipe is lost: all that can be asked is whether the process exists."""
        if self._runs() and timeout_s > 0:
            time.sleep(min(BLIND_POLL_S, timeout_s))
        return not self._runs()

    def _runs(self) -> bool:
        return self._started_at is not None and system.process_started_at(self.pid) == self._started_at

    def answer(self) -> bytes:
        """What it wrote besides its pid, to be asked after its end."""
        parts = []
        with suppress(OSError):
            while (end := self._end.get()) is not None and (part := os.read(end, 65536)):
                parts.append(part)
        return b"".join(parts)

    def tell(self, word: bytes) -> None:
        """Send one line. A child that is gone does not mind; one whose pipe is lost is asked to hurry."""
        orders = self._orders.get()
        with suppress(OSError):
            if orders is not None:
                os.write(orders, word + b"\n")
            elif self._runs():
                os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """Release the pipes (the child goes on). Harmless twice."""
        self._has_ended = True
        for end in (self._orders, self._orders_read, self._end):
            end.close()


def pipe() -> tuple[int, int]:
    """As os.pipe, with no end in the place of a closed stdin, stdout or stderr, where others would write to it."""
    read, write = os.pipe()
    return moved_up(read), moved_up(write)


def moved_up(descriptor: int) -> int:
    """The same file under a number from FIRST_DESCRIPTOR on, closed on exec."""
    low = []
    while descriptor < FIRST_DESCRIPTOR:
        low.append(descriptor)
        descriptor = os.dup(descriptor)
    for number in low:
        os.close(number)
    return descriptor
