"""Start a command under `guard.py` and end it again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spool import system
from spool.whole_files import private
from streaming.server.errors import ServerError, StartFailed

_GUARD = Path(__file__).with_name("guard.py")
_END_TIMEOUT_S = 10.0


@dataclass
class Guarded:
    """A command that runs under a guard. `lifeline` is the write end whose closing ends both; None once let go."""

    guard: ProcessId
    command: ProcessId
    unlink: Sequence[str] = ()
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _lifeline: int | None = field(default=None, repr=False)

    def is_running(self) -> bool:
        return self.command.is_running()

    def let_go(self) -> None:
        """From now on it outlives us; until then it ends when we end, however we end."""
        if self._lifeline is not None:
            os.write(self._lifeline, b".")
        self._release()

    def stop(self) -> None:
        """End the command and wait until both are gone; harmless when they are."""
        self.guard.send(signal.SIGTERM)
        if not self.guard.wait_ended(_END_TIMEOUT_S):
            self.guard.send(signal.SIGKILL)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the command itself, as a crash would, and wait until both are gone."""
        self.command.send(signal.SIGKILL)
        self.command.wait_ended(_END_TIMEOUT_S)
        self.guard.wait_ended(_END_TIMEOUT_S)
        self._clean()
        self._release()

    def as_json(self) -> dict[str, Any]:
        return {"guard": vars(self.guard), "command": vars(self.command), "unlink": list(self.unlink)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Guarded:
        return cls(ProcessId(**value["guard"]), ProcessId(**value["command"]), value["unlink"])

    def _clean(self) -> None:
        """What the guard does itself, unless it was killed."""
        for path in self.unlink:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _release(self) -> None:
        if self._popen is not None:
            self._popen.wait()
            self._popen = None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def launch(
    command: Sequence[str],
    *,
    directory: Path,
    log: Path,
    stdin: bytes = b"",
    env: Mapping[str, str],
    unlink: Sequence[Path] = (),
    detach: bool,
) -> Guarded:
    """Start `command` in `directory`, its output appended to `log` (which never grows beyond a few MiB).

    Detached, it is nobody's child, so that it can be let go. It has been started on return, not more.
    """
    read_end, write_end = os.pipe()
    plan: dict[str, Any] = {
        "command": list(command),
        "log": str(log),
        "unlink": [str(path) for path in unlink],
        "lifeline": read_end,
        "detach": detach,
    }
    try:
        popen = _spawn(plan, directory=directory, log=log, env=env)
        pids = _converse(popen, stdin, log)
        guard, child = ProcessId.of(pids["guard"]), _identify(pids["child"], log)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Guarded(guard, child, plan["unlink"], popen, write_end)


def _spawn(plan: dict[str, Any], *, directory: Path, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with open(log, "ab", opener=private) as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=directory,
            env=dict(env),
            pass_fds=(plan["lifeline"],),
            start_new_session=True,
        )


def _converse(popen: subprocess.Popen[bytes], stdin: bytes, log: Path) -> dict[str, int]:
    """Hand over the input, take the pids, and close both pipes."""
    assert popen.stdin is not None
    assert popen.stdout is not None
    with popen.stdout:
        with contextlib.suppress(BrokenPipeError), popen.stdin:
            popen.stdin.write(stdin)
        line = popen.stdout.readline()
    if not line:
        popen.wait()
        raise StartFailed(f"The command could not be started: {log_tail(log)}")
    pids: dict[str, int] = json.loads(line)
    return pids


def _identify(pid: int, log: Path) -> ProcessId:
    try:
        return ProcessId.of(pid)
    except Exception as exc:
        raise StartFailed(f"The process ended at once: {log_tail(log)}") from exc


def log_tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


@dataclass(frozen=True)
class ProcessId:
    """`started` tells this process from a later one with the same pid, also across a reboot."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify a running process; raises ServerError if it has ended."""
        started = _start_mark(pid)
        if started is None:
            raise ServerError(f"Process {pid} has ended.")
        return cls(pid, started)

    def is_running(self) -> bool:
        """A zombie counts as ended."""
        return _start_mark(self.pid) == self.started

    def send(self, signal_number: signal.Signals) -> bool:
        """Signal it if it is still the process we know; False if it has ended."""
        if not self.is_running():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal_number)
        return True

    def wait_ended(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _start_mark(pid: int) -> str | None:
    """None once it has ended, also as a zombie."""
    started = system.process_started_at(pid)
    return None if started is None else f"{system.boot_id()}:{started}"
