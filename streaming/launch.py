"""Starting our own processes: a fresh interpreter, detached from the caller, holding nothing of the caller's.

The child is started by exec (never by multiprocessing's spawn, which imports the caller's `__main__` again), in a
session of its own, and forks once at its very first line: the caller never has it as a child, so it is in nobody's
process tree, nobody's `os.wait()` and no `children` count. It gets its order as JSON through a pipe: nothing secret in
argv or environment. The other pipe tells its pid and, by being closed, its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spool import machine
from streaming import config
from streaming.errors import BadArgument, LaunchFailed

# Windows only: no console window, and not in the caller's group for Ctrl-C. 0 elsewhere.
_CREATION_FLAGS = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
START_METHODS = ("spawn", "fork")
_ENTRIES = {"uploader": "streaming.uploader", "tracker": "streaming.tracker", "discovery": "streaming.discovery"}

# Runs before `site` (-S), so that the caller waits some ten milliseconds only, and in no directory of the caller's.
# Descriptors that the caller's libraries left inheritable are closed: a socket of the program must not outlive it in us.
_BOOT = """
import os, sys
if os.name == "posix" and os.fork():
    os._exit(0)
os.write(1, b"%d\\n" % os.getpid())
if os.name == "posix":
    os.closerange(3, 65536)
sys.path[:] = [entry for entry in sys.path if entry]
import site
site.main()
sys.path += [entry for entry in sys.argv[2:] if entry not in sys.path]
from streaming.launch import enter
enter(sys.argv[1])
"""


@dataclass
class Child:
    """A running process of ours: its pid, and both pipes. Usable from any thread of the process that started it."""

    pid: int
    _orders: int
    _end: int

    _has_ended: bool = False

    def is_alive(self) -> bool:
        """Whether it still works for us."""
        return not self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended its work for us. False after `timeout_s` seconds."""
        # Readable means closed at the other end: by its death, or on purpose when its work for us is done.
        self._has_ended = self._has_ended or bool(machine.wait_readable([self._end], timeout_s))
        return self._has_ended

    def answer(self) -> bytes:
        """What it wrote besides its pid, to be asked after its end."""
        parts = []
        with suppress(OSError):
            while part := os.read(self._end, 65536):
                parts.append(part)
        return b"".join(parts)

    def tell(self, word: bytes) -> None:
        """Send one line. A child that is gone does not mind."""
        with suppress(OSError):
            os.write(self._orders, word + b"\n")

    def close(self) -> None:
        """Release both pipes (the child goes on). Harmless twice."""
        descriptors, self._orders, self._end = (self._orders, self._end), -1, -1
        self._has_ended = True
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def require_start_method(method: str) -> str:
    """`method` if it can be used. Raises BadArgument."""
    if method not in START_METHODS:
        raise BadArgument(f"start_method={method!r} is unknown", hint='use "spawn" (the default) or "fork"')
    if method == "fork" and (not hasattr(os, "fork") or threading.active_count() > 1):
        raise BadArgument(
            'start_method="fork" cannot be used in a program with other threads or without fork',
            hint='use start_method="spawn"',
        )
    return method


def start(entry: str, order: Mapping[str, Any], *, log_path: Path | None, method: str = "spawn") -> Child:
    """Start one of our processes with its order. Returns when it exists, without waiting for it to be ready.

    Raises LaunchFailed if it cannot be started.
    """
    orders_read, orders_write = os.pipe()
    end_read, end_write = os.pipe()
    try:
        os.write(orders_write, json.dumps(dict(order)).encode() + b"\n")
        if method == "fork":
            _start_by_fork(entry, orders_read, end_write, log_path)
        else:
            _start_by_exec(entry, orders_read, end_write, log_path)
        pid = _read_pid(end_read)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        os.close(orders_write)
        os.close(end_read)
        raise LaunchFailed(
            f"the {entry} process cannot be started ({error})",
            hint="rows are kept; deliver them with: tracker-stream drain",
        ) from error
    finally:
        os.close(orders_read)
        os.close(end_write)
    return Child(pid, orders_write, end_read)


def _start_by_exec(entry: str, stdin: int, stdout: int, log_path: Path | None) -> None:
    if not sys.executable:
        raise ValueError("sys.executable is not known in this embedded Python")
    log_file = _open_log(log_path)
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _BOOT, entry, *import_path()],
            stdin=stdin,
            stdout=stdout,
            stderr=log_file,
            cwd=str(log_path.parent) if log_path else None,
            env=environment(),
            start_new_session=True,
            creationflags=_CREATION_FLAGS,
        )
        if os.name == "posix":
            process.wait()
    finally:
        os.close(log_file)


def _start_by_fork(entry: str, stdin: int, stdout: int, log_path: Path | None) -> None:
    """multiprocessing's fork, and a second one, so that this child too is nobody's. Copies the caller's memory lazily."""
    import multiprocessing

    def detach() -> None:
        os.setsid()
        if os.fork() == 0:
            _become_child(entry, stdin, stdout, log_path)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=detach)
    process.start()
    process.join()


def _become_child(entry: str, stdin: int, stdout: int, log_path: Path | None) -> None:
    """In the forked copy: keep nothing of the caller but its memory, and never return."""
    try:
        log_file = _open_log(log_path)
        for target, source in enumerate((stdin, stdout, log_file)):
            os.dup2(source, target)
        os.closerange(3, 65536)
        os.write(1, b"%d\n" % os.getpid())
        inherited = environment()
        os.environ.clear()
        os.environ.update(inherited)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        enter(entry)
    finally:
        os._exit(1)


def enter(entry: str) -> None:
    """The child's side: read the order, run the entry's `main(order)`, leave without the caller's exit handlers."""
    import importlib

    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the starting thread may have blocked what we listen to
    order = json.loads(_read_line(0))
    main: Callable[[dict[str, Any]], int] = importlib.import_module(_ENTRIES[entry]).main
    code = 1
    try:
        code = main(order)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _read_line(descriptor: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _read_pid(descriptor: int) -> int:
    return int(_read_line(descriptor))


def _open_log(log_path: Path | None) -> int:
    """The child's stderr: the run's log file (0600), or nowhere."""
    if log_path is None:
        return os.open(os.devnull, os.O_WRONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(log_path, flags, machine.FILE_MODE)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def environment() -> dict[str, str]:
    """The caller's environment without secrets and without AWS settings, which are meant for the caller's own program."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in config.SECRET_VARIABLES and not name.startswith("AWS_")
    }


def import_path() -> list[str]:
    """Where the child finds what we found: our own place, then the rest of the caller's path but its script's directory."""
    own = str(Path(__file__).absolute().parent.parent)
    script_directory = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else None
    rest = [entry for entry in sys.path if entry and entry != script_directory and os.path.isabs(entry)]
    return list(dict.fromkeys([own, *rest]))
