"""What an uploader listens to while it waits: orders, its tracker's life, signals, its deadline."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from spool import system
from streaming.errors import GaveUp
from streaming.upload import wait
from streaming.upload.wait import Watch

LONG_S = 60.0  # no test waits so long: something always comes before


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue


def took_s(wait: float, of: Watch) -> float:
    began_at = time.monotonic()
    of.wait(wait)
    return time.monotonic() - began_at


def test_wait_without_anything_to_wait_for_takes_its_time() -> None:
    made = Watch(orders=None, tracker=None)
    assert took_s(0.05, made) >= 0.05
    made.close()


def test_order_ends_a_wait(pipe: tuple[int, int]) -> None:
    made = Watch(orders=pipe[0], tracker=None)
    threading.Timer(0.1, os.write, (pipe[1], b"ended\n")).start()
    assert took_s(LONG_S, made) < LONG_S / 2
    made.close()


def test_closed_orders_end_no_wait(pipe: tuple[int, int]) -> None:
    made = Watch(orders=pipe[0], tracker=None)
    os.close(pipe[1])
    assert took_s(0.1, made) >= 0.1
    made.close()


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_trackers_death_ends_a_wait(
    child: "subprocess.Popen[bytes]", has_pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pidfd:
        monkeypatch.setattr("streaming.upload.wait.open_pid", lambda _pid: None)
        monkeypatch.setattr(wait, "POLL_S", 0.05)
    made = Watch(orders=None, tracker=system.identify(child.pid))
    assert not made.tracker_has_died()
    threading.Timer(0.1, child.kill).start()
    reaper = threading.Thread(target=child.wait)
    reaper.start()
    assert took_s(LONG_S, made) < LONG_S / 2
    reaper.join()
    assert made.tracker_has_died()
    made.forget_tracker()
    assert not made.tracker_has_died()
    assert took_s(0.05, made) >= 0.05
    made.close()


def test_reused_pid_is_a_dead_tracker(child: "subprocess.Popen[bytes]") -> None:
    made = Watch(orders=None, tracker=replace(system.identify(child.pid), started_at="1"))
    assert made.tracker_has_died()
    made.close()


def test_deadline_ends_a_wait_by_giving_up_and_is_never_put_off() -> None:
    made = Watch(orders=None, tracker=None)
    assert made.has_time()
    made.limit(0.05)
    made.limit(LONG_S)
    with pytest.raises(GaveUp, match="what is left stays in the spool"):
        made.wait(LONG_S)
    assert not made.has_time()
    with pytest.raises(GaveUp):
        made.require_time()
    made.close()


HURRIED = """
import os, signal, sys, threading, time
from streaming.upload import wait
from streaming.errors import GaveUp
wait.HURRY_S = 0.2
made = wait.Watch(orders=None, tracker=None)
made.listen()
threading.Timer(0.1, os.kill, (os.getpid(), getattr(signal, sys.argv[1]))).start()
began_at = time.monotonic()
try:
    made.wait(30.0)
    while True:
        made.wait(1.0)
except GaveUp:
    print("gave up", time.monotonic() - began_at < 25)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_to_hurry_bounds_the_rest(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", HURRIED, name], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "gave up True", done.stderr


def test_ctrl_c_is_not_for_the_uploader() -> None:
    code = "import os, signal; from streaming.upload.wait import Watch; Watch(orders=None, tracker=None).listen();"
    code += "os.kill(os.getpid(), signal.SIGINT); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
