"""A private folder on this machine that lasts until its next boot: for the engine's socket, and what is found out once.

Never the spool directory, which hosts may share. Private means: a plain folder of ours with mode 0700. It is checked by
its open descriptor and used through it, so nobody can put another one in its place in between.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spool import system

_NAME = "tracker-stream"
_NAMESPACES = ("mnt", "net", "pid", "user")


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """The folder by a path that is short, as the name of a socket has 108 bytes at most. Raises OSError if there is none."""
    for candidate in _candidates():
        try:
            descriptor = _open_private(candidate)
        except OSError:
            continue
        try:
            short = Path("/proc/self/fd", str(descriptor))
            yield short if short.is_dir() else candidate
            return
        finally:
            os.close(descriptor)
    raise OSError(errno.EACCES, "no private folder can be had on this machine", os.environ.get("TMPDIR", "/tmp"))


def this_boot() -> str:
    """A short name of this machine (or container) since its boot: what was found out before says nothing any more."""
    here = system.identify(os.getpid())
    return digest(here.host, here.boot_id, [_namespace(name) for name in _NAMESPACES])


def digest(*parts: object) -> str:
    """A short name for anything that JSON knows."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _namespace(name: str) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/self/ns/{name}")
    return ""


def _candidates() -> list[Path]:
    """The user's runtime directory, however we were started, or else a folder of the user's own among temporary files."""
    named = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"]
    runtime = [Path(name) for name in named if os.path.isabs(name) and _is_private(os.stat, name)]
    temporary = [name for name in (os.environ.get("TMPDIR", ""), "/tmp") if os.path.isabs(name)]
    return [path / _NAME for path in runtime] + [Path(name, f"{_NAME}-{os.getuid()}") for name in temporary]


def _is_private(look: Callable[..., os.stat_result], what: str | int) -> bool:
    try:
        status = look(what)
    except OSError:
        return False
    is_closed = not stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and is_closed


def _open_private(path: Path) -> int:
    path.mkdir(mode=system.DIRECTORY_MODE, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if _is_private(os.fstat, descriptor):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "somebody else's, or open to others", str(path))
