"""Where the engine that delivers a spool directory's runs is met: a local socket, and the lock of who may serve there.

What holds, always:

* One engine for a user, host (and container), boot, spool directory, network settings and version of the code: they are
  what its name is made of.
* Only who holds the kernel lock beside a socket may make or remove that socket; the engine holds it until it ends,
  however it ends. A socket whose lock is free is a dead engine's.
* Whoever starts an engine binds the socket itself and hands it over with the lock: others can connect from then on, and
  their orders wait in the kernel until the engine has come up. Should it never come up, their connections close.
* Both sides see the other's user id by the kernel's word.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spool import system
from streaming.processes.child import moved_up
from streaming.processes.runtime_folder import digest, runtime_folder, this_boot

PROTOCOL = 1
_LOCK_SUFFIX = ".lock"
_BACKLOG = 1024  # orders that may wait while the engine comes up
_CONNECT_TIMEOUT_S = 2.0
# What the names of variables hold that change where requests go, and whom they trust there.
_NETWORK_SETTINGS = ("proxy", "ca_bundle", "ssl_cert", "server_user")
_PACKAGES = ("spool", "streaming/clients", "streaming/processes", "streaming/upload")


def socket_name(spool_directory: Path) -> str:
    """The socket's name for this process's settings. Raises OSError if the directory cannot be seen."""
    return f"{directory_name(spool_directory)}{digest(PROTOCOL, _network_settings(), code_on_disk())}"


def directory_name(spool_directory: Path) -> str:
    """How the names of all engines of a directory begin."""
    status = os.stat(spool_directory)
    return f"{digest(status.st_dev, status.st_ino, this_boot())}-"


def _network_settings() -> list[tuple[str, str]]:
    return sorted(item for item in os.environ.items() if any(word in item[0].lower() for word in _NETWORK_SETTINGS))


def code_on_disk() -> list[tuple[str, int]]:
    """Which files an engine that is started now consists of: an upgrade brings others."""
    root = Path(__file__).absolute().parents[2]
    if not root.is_dir():  # a program in a zip file
        return [(str(root), root.stat().st_mtime_ns)]
    files = [file for package in _PACKAGES for file in os.scandir(root / package) if file.name.endswith(".py")]
    return [(str(root), 0), *sorted((file.name, file.stat().st_mtime_ns) for file in files)]


@dataclass(eq=False)
class Claim:
    """The right to serve at a name: the lock and the listening socket. `release` closes this process's copies.

    A copy of the process that a program of many threads forks just now must not keep the right.
    """

    name: str
    lock: int
    listener: socket.socket

    def __post_init__(self) -> None:
        _held.add(self)

    def outlive_fork(self) -> None:
        """The next copy of this process is the engine itself."""
        _held.discard(self)

    def release(self) -> None:
        _held.discard(self)
        self.listener.close()
        os.close(self.lock)

    def retire(self) -> None:
        """Nobody is served here any more."""
        with suppress(OSError), runtime_folder() as folder:
            _unlink(folder, self.name)
        self.release()


_held: set[Claim] = set()


def _release_all() -> None:
    for held in [*_held]:
        held.release()


os.register_at_fork(after_in_child=_release_all)


def claim(name: str) -> Claim | None:
    """Become who may serve at this name; None if somebody is. Raises OSError where no socket can be had."""
    with runtime_folder() as folder:
        lock = _lock(folder / (name + _LOCK_SUFFIX))
        if lock is None:
            return None
        listener = socket.socket(fileno=moved_up(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()))
        try:
            (folder / name).unlink(missing_ok=True)
            listener.bind(str(folder / name))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            os.close(lock)
            raise
        return Claim(name, lock, listener)


def _lock(path: Path) -> int | None:
    descriptor = moved_up(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, system.FILE_MODE))
    with suppress(OSError):
        # One that was retired meanwhile protects nothing any more.
        if system.lock_exclusively(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    os.close(descriptor)
    return None


def _unlink(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / (name + _LOCK_SUFFIX)).unlink(missing_ok=True)


def connect(name: str) -> socket.socket | None:
    """A connection to who serves at this name; None if nobody does. Raises OSError where no socket can be had."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        with runtime_folder() as folder:
            connection.connect(str(folder / name))
        if is_own_peer(connection):
            return connection
    except (FileNotFoundError, ConnectionError):
        pass
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def names(spool_directory: Path) -> list[str]:
    """The sockets of a directory's engines, whatever their settings; some may be dead."""
    with suppress(OSError), runtime_folder() as folder:
        beginning = directory_name(spool_directory)
        return sorted(name for name in os.listdir(folder) if name.startswith(beginning) and "." not in name)
    return []


def sweep() -> None:
    """Remove what dead engines left."""
    with suppress(OSError), runtime_folder() as folder:
        for path in folder.glob("*" + _LOCK_SUFFIX):
            lock = _lock(path)
            if lock is not None:
                _unlink(folder, path.name.removesuffix(_LOCK_SUFFIX))
                os.close(lock)


def is_own_peer(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's, by the kernel's word. (Else the folder's mode is our word.)"""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())
