"""Waiting for processes and pipes, with pidfd and without, and a clock that never jumps."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from streaming.processes import system


@pytest.fixture(params=["here", "without"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once as this machine is, once as one (macOS) without pidfd and without a clock that counts its sleep."""
    if request.param == "without":
        monkeypatch.setattr(system, "os", lacking(os, "pidfd_open"))
        monkeypatch.setattr(system, "time", lacking(time, "CLOCK_BOOTTIME"))
    return str(request.param)


def lacking(module: ModuleType, *names: str) -> SimpleNamespace:
    """A module without some of what it has."""
    return SimpleNamespace(**{name: value for name, value in vars(module).items() if name not in names})


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made


def test_end_of_a_process_can_be_waited_for_where_the_system_has_pidfd(
    either: str, child: "subprocess.Popen[bytes]"
) -> None:
    descriptor = system.open_pid(child.pid)
    if either == "without":
        assert descriptor is None
        return
    assert descriptor is not None
    assert system.wait_readable([descriptor], 0.0) == []
    child.kill()
    assert system.wait_readable([descriptor], 20.0) == [descriptor]
    os.close(descriptor)


def test_end_of_a_process_that_is_gone_cannot_be_waited_for(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    assert system.open_pid(child.pid) is None


def test_wait_tells_what_is_readable_or_closed() -> None:
    read, write = os.pipe()
    assert system.wait_readable([read], 0.01) == []
    os.write(write, b"!")
    assert system.wait_readable([read], 20.0) == [read]
    os.read(read, 1)
    os.close(write)
    assert system.wait_readable([read], 20.0) == [read], "closed at the other end"
    os.close(read)
    assert system.wait_readable([], 0.0) == []


def test_wait_of_any_length_can_be_asked_for() -> None:
    read, write = os.pipe()
    os.close(write)
    assert system.wait_readable([read], 1e300) == [read]
    os.close(read)


def test_clock_never_jumps(either: str) -> None:
    first = system.seconds_since_boot()
    assert 0 < first <= system.seconds_since_boot()


def test_core_dumps_are_forbidden() -> None:
    script = (
        "from streaming.processes.system import forbid_core_dumps; forbid_core_dumps(); "
        "import resource as r; print(r.getrlimit(r.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"
