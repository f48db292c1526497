"""What an uploader listens to while it waits: its orders, the tracker's life, signals, and its own deadline."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import FrameType

from spool import Tracker, system
from streaming.errors import GaveUp
from streaming.processes.system import open_pid, seconds_since_boot, wait_readable

HURRY_S = 20.0  # after SIGTERM
POLL_S = 1.0  # where nothing can be waited for, the tracker's life is looked at this often


class Watch:
    """Waits, but not past anything that matters. Signals set a flag; the loop looks.

    A pidfd tells of the tracker's death at once; where there is none, it is looked for every second. The deadline
    counts the time that the machine is awake: a run must not be given up because the lid was closed.
    """

    def __init__(self, *, orders: int | None, tracker: Tracker | None) -> None:
        self._orders = orders
        self._tracker = tracker
        self._pidfd = None if tracker is None else open_pid(tracker.pid)
        self._deadline_at = float("inf")
        self._hurried_until = float("inf")
        self._is_hurried = False
        self._signal_read, self._signal_write = os.pipe()
        os.set_blocking(self._signal_read, False)
        os.set_blocking(self._signal_write, False)

    def listen(self) -> None:
        """Take SIGTERM and SIGHUP as "hurry", ignore Ctrl-C (it reaches the whole group). Main thread only."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._hurry)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _hurry(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_hurried = True
        with suppress(OSError):
            os.write(self._signal_write, b"!")

    def limit(self, seconds: float) -> None:
        """Leave at the latest in `seconds`. Only ever shortens."""
        self._deadline_at = min(self._deadline_at, time.monotonic() + seconds)

    def tracker_has_died(self) -> bool:
        return self._tracker is not None and not system.is_alive(self._tracker)

    def forget_tracker(self) -> None:
        """Its death was seen and acted upon."""
        self._tracker = None
        self._close_pidfd()

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds`; less if an order comes, the tracker dies, or a signal asks to hurry.

        Raises GaveUp when the deadline has passed.
        """
        end_at = seconds_since_boot() + seconds
        while True:
            self._apply_hurry()
            left_s = self._left_s(end_at)
            if left_s <= 0 or self._wait_for_event(left_s) or self.tracker_has_died():
                break
        self._apply_hurry()
        self.require_time()

    def may_go_on(self) -> bool:
        """Whether a delivery that makes progress may go on: always, but for so long only after a signal to hurry."""
        self._apply_hurry()
        return time.monotonic() < self._hurried_until

    def has_time(self) -> bool:
        """Whether the deadline is still ahead and nobody asked to hurry."""
        return not self._is_hurried and time.monotonic() < self._deadline_at

    def require_time(self) -> None:
        """Raises GaveUp when the deadline has passed."""
        if time.monotonic() >= self._deadline_at:
            raise GaveUp("the time for delivery is over; what is left stays in the spool")

    def _left_s(self, end_at: float) -> float:
        return min(end_at - seconds_since_boot(), self._deadline_at - time.monotonic())

    def _apply_hurry(self) -> None:
        if self._is_hurried:
            self._is_hurried = False
            self.limit(HURRY_S)
            self._hurried_until = self._deadline_at

    def _wait_for_event(self, seconds: float) -> bool:
        """Whether something happened that ends the wait."""
        must_poll = self._tracker is not None and self._pidfd is None
        descriptors = [fd for fd in (self._orders, self._pidfd, self._signal_read) if fd is not None]
        ready = wait_readable(descriptors, min(seconds, POLL_S) if must_poll else seconds)
        if self._signal_read in ready:
            os.read(self._signal_read, 64)
        if self._orders in ready and not os.read(self._orders or 0, 256):
            self._orders = None  # the tracker closed its end; its death, if it is that, is seen by its pid
            return False
        return bool(ready)

    def close(self) -> None:
        self._close_pidfd()
        os.close(self._signal_read)
        os.close(self._signal_write)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
