"""Who delivers a run: a kernel lock on a file beside its spool, held as long as the owner lives."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from spool import system
from spool.directory import LOCK_SUFFIX, REMEDY
from spool.errors import LocksDoNotWork, Owned, SpoolError, SpoolFull, SpoolRefused, SpoolUnavailable

_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.02


@contextmanager
def own(spool_path: Path) -> Iterator[None]:
    """Be the only deliverer of a run, by a kernel lock on a file of its own, which ends with the process.

    The file also says who holds it (for people; the lock decides, not the text). Raises Owned at once if another has it.
    The lock is on a file beside the database: closing any other handle of the database would drop SQLite's own locks.
    """
    descriptor = _lock_file(spool_path)
    try:
        _require_own_lock(descriptor, spool_path.with_suffix(LOCK_SUFFIX))
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _require_own_lock(descriptor: int, path: Path) -> None:
    """It is written to: it must not be another file of the user's under a second name."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        raise SpoolRefused(
            f"the lock {path} is not a plain file of its own", path=path, hint="remove it, keep the spool"
        )


def _sign(descriptor: int) -> None:
    text = json.dumps(asdict(system.identify(os.getpid()))).encode()
    with suppress(OSError):  # a full disk: the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text)


def _lock_file(spool_path: Path) -> int:
    """The locked descriptor. Tries for a moment: somebody may just be looking whether the lock is free."""
    path = spool_path.with_suffix(LOCK_SUFFIX)
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_LOCK_TRIES):
        try:
            descriptor = os.open(path, flags, system.FILE_MODE)
        except OSError as error:
            raise _translated_lock_error(error, path) from error
        try:
            if system.lock_exclusively(descriptor) and _is_same_file(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise LocksDoNotWork(
                f"the file system of {path.parent} has no working file locks ({error.strerror})",
                path=path,
                hint=REMEDY,
            ) from error
        os.close(descriptor)
        time.sleep(_LOCK_PAUSE_S)
    raise Owned(f"another process delivers {spool_path.stem}", path=spool_path)


def _translated_lock_error(error: OSError, path: Path) -> SpoolError:
    if path.is_symlink():
        return SpoolRefused(f"{path} is a symbolic link", path=path, hint="remove the link, keep the spool")
    if system.is_no_room(error):
        return SpoolFull(f"no room left for {path} ({error.strerror})", path=path, hint=system.MAKE_ROOM)
    return SpoolUnavailable(f"the lock {path} cannot be used now ({error.strerror})", path=path)


def _is_same_file(descriptor: int, path: Path) -> bool:
    """A removed run's lock file may have been locked after its name was unlinked: such a lock protects nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_owned(spool_path: Path) -> bool:
    """Whether some living process delivers this run right now."""
    try:
        descriptor = os.open(spool_path.with_suffix(LOCK_SUFFIX), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not system.lock_exclusively(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
