"""A wall-clock bound on a blocking call: interrupts it, whatever the far end drips in the meantime.

Library timeouts bound one read; a peer that sends a byte a second passes them for ever. Here an interval timer raises
inside the call. It needs the main thread of a process, where all deliveries run; in another
thread the libraries' own timeouts are all there is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LEAST_S = 0.001  # setitimer takes 0 as "never"
_REPEAT_S = 1.0  # raised again if the first was swallowed by somebody's cleanup


class DeadlinePassed(Exception):
    """The call took longer than allowed."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlinePassed inside the block after `seconds`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_over = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if not is_over:
            raise DeadlinePassed(f"no complete answer within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, _LEAST_S), _REPEAT_S)
    try:
        try:
            yield
        finally:
            is_over = True
    finally:  # reached although the alarm may have struck at the very line above; the next one is a second away
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
