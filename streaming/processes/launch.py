"""Starting our own processes: a fresh interpreter, detached from the caller, holding nothing of the caller's.

The child is started by exec (never by multiprocessing's spawn, which imports the caller's `__main__` again), in a
session of its own, and forks once at its very first line: the caller never has it as a child, so it is in nobody's
process tree, nobody's `os.wait()` and no `children` count. It gets its order as JSON through its standard input: nothing
secret in argv or environment. The same connection tells its pid and, by being closed, its end.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spool import system
from streaming import config
from streaming.errors import BadArgument, LaunchFailed
from streaming.processes.child import FIRST_DESCRIPTOR, Child, Connection, moved_up
from streaming.processes.entry import enter, read_line

START_METHODS = ("spawn", "fork")

# Runs before `site` (-S), so that the caller waits some ten milliseconds only, and in no directory of the caller's.
# Descriptors that the caller's libraries left inheritable are closed: a socket of the program must not outlive it in us.
# What `site` runs (sitecustomize, .pth files) may print: not into our answer. A user's own `queue.py` or `requests.py`,
# found by PYTHONPATH, must not stand in for what we import: the standard library is first, then our dependencies and we.
_BOOT = """
import os, sys
if os.fork():
    os._exit(0)
os.write(1, b"%d\\n" % os.getpid())
kept = [2, *sorted(map(int, filter(None, sys.argv[2].split(",")))), 65536]
for low, high in zip(kept, kept[1:]):
    os.closerange(low + 1, high)
os.umask(0o077)
answer = os.dup(1)
os.dup2(2, 1)
given = [] if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:] = [entry for entry in sys.path if entry and entry not in given]
library = len(sys.path)
import site
site.main()
own, *callers = sys.argv[3:]
others = [entry for entry in given + sys.path[library:] + callers if os.path.isabs(entry)]
dependencies = [entry for entry in others if os.path.isfile(os.path.join(entry, "botocore", "__init__.py"))]
sys.path[library:] = dict.fromkeys([*dependencies[:1], own, *others])
os.dup2(answer, 1)
os.close(answer)
from streaming.processes.entry import enter
enter(sys.argv[1])
"""


def require_start_method(method: str) -> str:
    """`method` if it can be used. Raises BadArgument."""
    if method not in START_METHODS:
        raise BadArgument(f"start_method={method!r} is unknown", hint='use "spawn" (the default) or "fork"')
    if method == "fork" and threading.active_count() > 1:
        raise BadArgument(
            'start_method="fork" cannot be used in a program with other threads',
            hint='use start_method="spawn"',
        )
    if method == "fork" and _is_daemonic():
        raise BadArgument(
            'start_method="fork" cannot be used in a daemonic process, as a pool\'s workers are',
            hint='use start_method="spawn"',
        )
    return method


def _is_daemonic() -> bool:
    """Whether multiprocessing would refuse to start a process from this one."""
    import multiprocessing

    return multiprocessing.current_process().daemon


def start(
    entry: str,
    order: Mapping[str, Any],
    *,
    log_path: Path | None,
    method: str = "spawn",
    kept: Sequence[int] = (),
    hidden: Sequence[str] = (),
) -> Child:
    """Start one of our processes with its order. Returns when it exists, without waiting for it to be ready.

    `kept`: descriptors that it inherits under the same numbers. `hidden`: secrets that must not reach it through its
    environment. Raises LaunchFailed if it cannot be started.
    """
    try:
        ours, its = (socket.socket(fileno=moved_up(end.detach())) for end in socket.socketpair())
        with ours, its:
            ours.sendall(json.dumps(dict(order)).encode() + b"\n")
            begin = _start_by_fork if method == "fork" else _start_by_exec
            begin(entry, its.fileno(), log_path, [*_tokens(order), *hidden], kept)
            its.close()  # the child's copy is the only one now
            return Child(int(read_line(ours.fileno())), Connection(ours))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise LaunchFailed(
            f"the {entry} process cannot be started ({error})",
            hint="rows are kept; deliver them with: tracker-stream drain",
        ) from error


def _tokens(order: Mapping[str, Any]) -> list[str]:
    """The secrets of an order, which must not reach the child by any other way."""
    token = order.get("token") or order.get("delivery", {}).get("token")
    return [token] if token else []


def _start_by_exec(
    entry: str, connected: int, log_path: Path | None, tokens: Sequence[str], kept: Sequence[int]
) -> None:
    log_file = _open_log(log_path)
    try:
        process = subprocess.Popen(
            [
                interpreter(),
                *_interpreter_options(),
                "-S",
                "-c",
                _BOOT,
                entry,
                ",".join(map(str, kept)),
                *import_path(),
            ],
            pass_fds=kept,
            stdin=connected,
            stdout=connected,
            stderr=log_file,
            cwd=str(log_path.parent) if log_path else None,
            env=environment(tokens),
            start_new_session=True,
        )
        process.wait()
    finally:
        os.close(log_file)


def interpreter() -> str:
    """The Python that runs us, also where another program embeds it and `sys.executable` is empty or that program.

    Raises ValueError.
    """
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = [Path(sys.exec_prefix, "bin"), Path(sys.base_exec_prefix, "bin"), Path(sys.exec_prefix)]
    given = [sys.executable, getattr(sys, "_base_executable", None)]
    named = [path for path in given if path and os.path.basename(path).lower().startswith(("python", "pypy"))]
    guessed = [str(folder / name) for folder in folders]
    for path in [*named, *guessed]:
        if os.access(path, os.X_OK):
            return path
    raise ValueError("no Python is found to run it: sys.executable is not known in this embedded Python")


def _interpreter_options() -> list[str]:
    """As isolated as the caller. A warning of a library must not become an error in us, nor a module that could only be
    written in part one in every process after us."""
    isolation = [("ignore_environment", "-E"), ("no_user_site", "-s")]
    is_limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    compiled = ["-B"] if is_limited or sys.dont_write_bytecode else []
    return ["-W", "ignore", *compiled, *(option for flag, option in isolation if getattr(sys.flags, flag))]


def _start_by_fork(
    entry: str, connected: int, log_path: Path | None, tokens: Sequence[str], kept: Sequence[int]
) -> None:
    """multiprocessing's fork, and a second one, so that this child too is nobody's. Copies the caller's memory lazily."""
    import multiprocessing

    def detach() -> None:
        os.setsid()
        if os.fork() == 0:
            _become_child(entry, connected, log_path, tokens, kept)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=detach)
    process.start()
    process.join()


def _become_child(
    entry: str, connected: int, log_path: Path | None, tokens: Sequence[str], kept: Sequence[int]
) -> None:
    """In the forked copy: keep nothing of the caller but its memory, and never return."""
    try:
        log_file = moved_up(_open_log(log_path))
        for target, source in enumerate((connected, connected, log_file)):
            os.dup2(source, target)
        bounds = sorted([FIRST_DESCRIPTOR - 1, *kept, 65536])
        for low, high in itertools.pairwise(bounds):
            os.closerange(low + 1, high)
        os.write(1, b"%d\n" % os.getpid())
        os.umask(0o077)
        inherited = environment(tokens)
        os.environ.clear()
        os.environ.update(inherited)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        _forget_callers_output()
        enter(entry)
    finally:
        os._exit(1)


def _forget_callers_output() -> None:
    """The caller's streams and log handlers write to files of the caller, which are closed here."""
    import warnings

    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    names = [name for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *map(logging.getLogger, names)):
        logger.handlers = []


def _open_log(log_path: Path | None) -> int:
    """The child's stderr: the run's log file (0600), or nowhere."""
    if log_path is None:
        return os.open(os.devnull, os.O_WRONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        return os.open(log_path, flags, system.FILE_MODE)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def environment(tokens: Sequence[str] = ()) -> dict[str, str]:
    """The caller's environment without secrets (whatever the variable's name) and without AWS settings, which are meant
    for the caller's own program. `tokens`: those in hand; what the environment itself names as one counts anyway."""
    known = {*tokens, *(os.environ.get(name) for name in config.SECRET_VARIABLES)} - {None, ""}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in config.SECRET_VARIABLES
        and not name.startswith("AWS_")
        and not any(token in value for token in known if token)
    }


def import_path() -> list[str]:
    """Where the child finds what we found: our own place, then the rest of the caller's path but its script's directory."""
    own = str(Path(__file__).absolute().parents[2])
    script_directory = _script_directory()
    rest = [entry for entry in sys.path if entry and entry != script_directory and os.path.isabs(entry)]
    return list(dict.fromkeys([own, *rest]))


def _script_directory() -> str | None:
    arguments: list[str] = getattr(sys, "argv", [])  # missing where Python is embedded
    with suppress(OSError):  # the working directory may be gone
        return os.path.dirname(os.path.abspath(arguments[0])) if arguments and arguments[0] else None
    return None
