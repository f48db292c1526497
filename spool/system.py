"""What a spool asks of the operating system: private files, locks, who a process is. Linux, and macOS without procfs."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from spool.errors import SpoolError, SpoolFull, SpoolUnavailable
from spool.model import Tracker

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_PROBE_BYTES = 64 << 10
MAKE_ROOM = "free space, or raise the limit (ulimit -f, quota)"  # which of them it is, the kernel does not always tell
_NEAR_BYTES = 256 << 20  # to the limit: an append may be that large
_SQLITE_PENDING_BYTE = 0x40000000  # SQLite's lock bytes, part of its file format: pending, reserved, 510 shared
_SQLITE_LOCK_BYTES = 512


def random_name() -> str:
    """64 random bits for a file name. From the kernel, as `secrets` has them, without its import."""
    return os.urandom(8).hex()


def create_private_file(path: Path) -> None:
    """Create `path` with mode 0600 whatever the umask, durably.

    Raises FileExistsError if anything, even a dangling symlink, is there.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names in a directory survive power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def extend_file(path: Path, size: int) -> None:
    """Let a file of ours have at least `size` bytes, by zeros that really take their room. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        end = os.fstat(descriptor).st_size
        while end < size:
            end += os.pwrite(descriptor, bytes(size - end), end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_file(descriptor: int, to_path: Path) -> None:
    """Copy an open file into an existing one, durably. (Opening it once more would drop this process's locks on it.)"""
    copy = os.open(to_path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        while piece := os.read(descriptor, 1 << 20):
            while piece:
                piece = piece[os.write(copy, piece) :]
        os.fsync(copy)
    finally:
        os.close(copy)


def is_no_room(error: OSError) -> bool:
    """Whether the disk is full, a quota is used up, or a file size limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def translated_error(error: OSError, path: Path) -> SpoolError:
    """What an OSError about a spool's files means."""
    if is_no_room(error):
        return SpoolFull(f"no room left for the spool {path} ({error.strerror})", path=path, hint=MAKE_ROOM)
    return SpoolUnavailable(f"the spool {path} cannot be used now ({error.strerror})", path=path)


def lacks_room(path: Path) -> bool:
    """Whether a file size limit or a quota may keep the file at `path` from growing, found out by trying beside it."""
    scratch = path.with_name(f".probe-{random_name()}")
    try:
        if path.stat().st_size + _NEAR_BYTES > _file_size_limit():
            return True
        create_private_file(scratch)
        extend_file(scratch, _PROBE_BYTES)
    except OSError as error:
        return is_no_room(error)
    finally:
        with suppress(OSError):
            scratch.unlink()
    return False


def _file_size_limit() -> float:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def lock_exclusively(descriptor: int) -> bool:
    """Take the kernel lock of an open file without waiting; False if another process has it.

    The lock ends with the process, however it ends. Raises OSError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_byte_range(descriptor: int) -> None:
    """Take and release the kind of lock that SQLite uses. Raises OSError where the file system has none."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(descriptor, fcntl.LOCK_UN)


def lock_database(descriptor: int) -> bool:
    """Lock all bytes of a database file that SQLite ever locks: no reader and no writer is left, and none can come.

    False if somebody is there now.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _SQLITE_LOCK_BYTES, _SQLITE_PENDING_BYTE)
    except (BlockingIOError, PermissionError):
        return False
    return True


def descriptors_on(identity: tuple[int, int]) -> frozenset[int]:
    """Our open descriptors of the file with this device and number; none where the system cannot list them."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError, ValueError):
            numbers = [int(name) for name in os.listdir(folder)]
            return frozenset(number for number in numbers if is_open_on([number], identity))
    return frozenset()


def is_open_on(descriptors: Iterable[int], identity: tuple[int, int]) -> bool:
    """Whether one of the descriptors is open on the file with this device and number."""
    for descriptor in descriptors:
        with suppress(OSError):
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) == identity:
                return True
    return False


def identify(pid: int) -> Tracker:
    """Who `pid` is: with its start time, boot and pid namespace, so that a reused pid is not mistaken for it."""
    return Tracker(
        pid=pid,
        started_at=process_started_at(pid) or "",
        boot_id=boot_id(),
        pid_namespace=_link_target("/proc/self/ns/pid"),
        host=host_identity(),
    )


def is_here(tracker: Tracker) -> bool:
    """Whether the tracker ran on this machine, in this pid namespace (else its pid says nothing here)."""
    here = identify(os.getpid())
    return (tracker.host, tracker.pid_namespace) == (here.host, here.pid_namespace)


def is_alive(tracker: Tracker) -> bool:
    """Whether exactly this process still runs here. Only meaningful where `is_here`."""
    if tracker.boot_id != boot_id():
        return False
    started_at = process_started_at(tracker.pid)
    if started_at is None:
        return False
    return not tracker.started_at or started_at == tracker.started_at


def lives_here(tracker: Tracker) -> bool:
    """Whether the tracker is a process that runs on this machine now."""
    return is_here(tracker) and is_alive(tracker)


def process_started_at(pid: int) -> str | None:
    """Start time of a living process in the system's own unit, "" if the system does not tell, None if it is gone."""
    if not sys.platform.startswith("linux"):
        return _started_at_portable(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    is_zombie = fields[0] in (b"Z", b"X")
    return None if is_zombie else fields[19].decode()


def _started_at_portable(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def boot_id() -> str:
    """Another one after each start of the machine; "" where the system tells none."""
    return _read_text("/proc/sys/kernel/random/boot_id")


def host_identity() -> str:
    """A stable name of this machine: its machine id where there is one, and its host name."""
    return f"{_read_text('/etc/machine-id')}/{os.uname().nodename}"


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _link_target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
