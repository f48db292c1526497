"""The wall-clock bound on a blocking call."""

import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from streaming.clients.deadline import DeadlinePassed, deadline


def test_blocking_call_is_interrupted() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(DeadlinePassed, match=r"within 0\.05 s"), deadline(0.05):
        left.recv(1)


def test_drip_does_not_extend_it() -> None:
    left, right = socket.socketpair()
    stopping = threading.Event()

    def drip() -> None:
        while not stopping.wait(0.02):
            right.send(b".")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        left.settimeout(5)
        with pytest.raises(DeadlinePassed), deadline(0.2):
            _receive_all(left)
    finally:
        stopping.set()
        dripping.join()
        left.close()
        right.close()


def test_swallowed_once_it_strikes_again() -> None:
    with pytest.raises(DeadlinePassed), deadline(0.05):
        _swallow_one()


def _receive_all(sock: socket.socket) -> None:
    while sock.recv(1):
        pass


def _swallow_one() -> None:
    with suppress(DeadlinePassed):
        threading.Event().wait(5)
    threading.Event().wait(5)


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(30):
        pass
    with pytest.raises(DeadlinePassed), deadline(0.01):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_alarm_in_the_last_moment_leaves_nothing_behind() -> None:
    """Many deadlines that end just as they pass: none may strike afterwards, in code that knows nothing of it."""
    for attempt in range(300):
        try:
            with deadline(0.0005 + attempt * 1e-6):
                time.sleep(0.0004 + attempt % 7 * 5e-5)
        except DeadlinePassed:
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_alarm_that_strikes_as_the_block_ends_raises_nothing() -> None:
    with deadline(30):
        strike = signal.getsignal(signal.SIGALRM)
        assert callable(strike)
        with pytest.raises(DeadlinePassed):
            strike(signal.SIGALRM, None)
    strike(signal.SIGALRM, None)


def test_zero_seconds_are_not_for_ever() -> None:
    with pytest.raises(DeadlinePassed), deadline(0.0):
        time.sleep(5)


def test_other_threads_are_left_to_the_libraries_own_timeouts() -> None:
    seen: list[str] = []

    def work() -> None:
        with deadline(0.01):
            time.sleep(0.05)
        seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]
