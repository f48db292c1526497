"""A wall-clock bound on a blocking call: interrupts it, whatever the far end drips in the meantime.

Library timeouts bound one read; a peer that sends a byte a second passes them for ever. Here an interval timer raises
inside the call. It needs the main thread of a POSIX process, where all deliveries run; elsewhere (Windows, another
thread) the libraries' own timeouts are all there is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT_S = 1.0  # raised again if the first was swallowed by somebody's cleanup


class DeadlinePassed(Exception):
    """The call took longer than allowed."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlinePassed inside the block after `seconds`."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlinePassed(f"no complete answer within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
