"""A process is known by more than its pid."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from streaming.server.errors import ServerError
from streaming.server.process.guarded import ProcessId


def test_a_process_with_another_start_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = ProcessId.of(child.pid)
        assert known.is_running()
        assert not replace(known, started="another").send(signal.SIGKILL)
        assert known.is_running()
        assert known.send(signal.SIGKILL)
        assert known.wait_ended(5)  # a zombie by now: it counts as ended
        assert child.poll() is None or child.returncode == -signal.SIGKILL


def test_a_process_that_never_was() -> None:
    with pytest.raises(ServerError):
        ProcessId.of(2**22 + 1)
