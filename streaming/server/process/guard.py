"""Run one command and end it, cleaned up after, when the guard is told to or when whoever started it is gone.

Started by `guarded.launch` as a script of its own (standard library only, no site-packages), because weed needs SIGKILL,
leaves sockets behind, and would outlive a killed test run. Killed here, at any line: the kernel kills the command
(PR_SET_PDEATHSIG, Linux), and the files in `unlink` stay.

The lifeline is a pipe whose other end the starter holds: closed, by whatever end of the starter, it ends everything; a
byte through it lets go, and from then on only SIGTERM ends us.

The order of the pipes: one line of JSON with both pids goes to stdout, which is then closed; standard input belongs to the
command. What the command prints goes into the log, through us: nobody can fill a disk by making it print.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from typing import Any

LOG_MAX_BYTES = 4 * 2**20  # then it becomes the one older log that is kept
_PR_SET_PDEATHSIG = 1
_NO_CORE = (
    1,
    1,
)  # bytes: too few for any file, and the one value at which Linux starts no program to take the dump either


def main(plan: dict[str, Any]) -> int:
    """Run `plan["command"]` until it ends, the lifeline closes, or SIGTERM arrives; its exit code."""
    if plan["detach"]:
        _detach()
    os.umask(0o077)  # sockets and files that the command makes are its owner's alone
    resource.setrlimit(resource.RLIMIT_CORE, _NO_CORE)
    wakeup = _wake_on(signal.SIGCHLD, signal.SIGTERM)
    child = subprocess.Popen(
        plan["command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent
    )
    log = _Log(plan["log"], child)
    try:
        _report(child.pid)
        _wait(child, wakeup, plan["lifeline"], log)
    finally:
        child.kill()
        code = child.wait()
        log.take()
        for path in plan["unlink"]:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return code


class _Log:
    """What the command prints, appended to a file that is put aside when it is full. A full disk costs lines, no more."""

    def __init__(self, path: str, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        self._path = path
        self.source = child.stdout.fileno()
        os.set_blocking(self.source, False)

    def take(self) -> bool:
        """Write what is there now; False once there will be no more."""
        with contextlib.suppress(BlockingIOError):
            while lines := os.read(self.source, 65536):
                with contextlib.suppress(OSError):
                    self._write(lines)
            return False
        return True

    def _write(self, lines: bytes) -> None:
        with open(self._path, "ab") as file:
            file.write(lines)
            is_full = file.tell() > LOG_MAX_BYTES
        if is_full:
            os.replace(self._path, f"{self._path}.1")


def _detach() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()


def _wake_on(*signals: signal.Signals) -> int:
    """A pipe that becomes readable at each of the signals."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the starter decides
    for number in signals:
        signal.signal(number, lambda *_: None)
    return read_end


def _die_with_parent() -> None:
    """In the child, before exec: SIGKILL it when the guard dies, where the kernel can do that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _report(child_pid: int) -> None:
    sys.stdout.write(json.dumps({"guard": os.getpid(), "child": child_pid}) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _wait(child: subprocess.Popen[bytes], wakeup: int, lifeline: int, log: _Log) -> None:
    watched = [wakeup, log.source, lifeline]
    while child.poll() is None:
        ready, _, _ = select.select(watched, [], [])
        if log.source in ready and not log.take():
            watched.remove(log.source)
        if wakeup in ready and signal.SIGTERM in os.read(wakeup, 64):
            return
        if lifeline in ready:
            if not os.read(lifeline, 1):
                return
            watched.remove(lifeline)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
