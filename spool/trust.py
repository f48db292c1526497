"""What is looked at before SQLite sees a file: a spool that was handed over must not make SQLite touch anything else.

SQLite trusts what lies beside a database. A journal that names a super-journal makes it delete the file of that name; a
file with two names has two journals, of which it knows one; and whoever may write in the directory can put a journal
there between our look and SQLite's. Ours never look like that, so whatever does is refused, with what to do.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from spool.errors import NoSuchRun, SpoolRefused, SpoolUnavailable

_JOURNAL = "-journal"
_NEVER_OURS = ("-wal", "-shm")
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_WRITABLE_BY_OTHERS = 0o022
DAMAGED = ".damaged-"


def require_trustworthy(path: Path) -> None:
    """Refuse a spool that is not a plain private file of ours in a directory of ours, and what is odd beside it.

    Raises SpoolRefused, NoSuchRun if nothing is there, SpoolUnavailable.
    """
    try:
        _require_own_directory(path.parent)
        _require_own_file(path)
        _require_no_write_ahead_log(path)
        with suppress(FileNotFoundError):
            _require_own_file(_beside(path, _JOURNAL))
            _require_own_journal(_beside(path, _JOURNAL))
    except FileNotFoundError as error:
        raise NoSuchRun(f"there is no spool {path}", path=path, hint="see: tracker-stream status") from error
    except OSError as error:
        raise SpoolUnavailable(f"the spool {path} cannot be looked at ({error.strerror})", path=path) from error


def _require_own_directory(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise SpoolRefused(
            f"the directory {directory} belongs to user {status.st_uid}, not to you ({os.geteuid()})",
            path=directory,
            hint="copy the spool into a directory of your own",
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise SpoolRefused(
            f"other users may write in the directory {directory}, also beside the spool",
            path=directory,
            hint="remove their write permission (chmod go-w), or move the spool into a directory of your own",
        )


def _require_own_file(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise SpoolRefused(f"{path} is not a plain file", path=path, hint="remove the link or device, keep the spool")
    if status.st_uid != os.geteuid():
        raise SpoolRefused(
            f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()})",
            path=path,
            hint="let its owner drain it, or drain a copy of your own",
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise SpoolRefused(
            f"other users may write to {path}", path=path, hint="remove their permissions (chmod go-rwx)"
        )
    if status.st_nlink > 1 + _kept_aside_names(path, status):
        raise SpoolRefused(
            f"{path} has {status.st_nlink} hard links", path=path, hint="replace the hard link by a copy"
        )


def _kept_aside_names(path: Path, status: os.stat_result) -> int:
    """A recovery that was killed at the wrong moment leaves the damaged file under two names, both in one directory."""
    if status.st_nlink == 1:
        return 0
    name = path.name.removesuffix(_JOURNAL)
    found = [beside.lstat() for beside in path.parent.glob(f"{name}{DAMAGED}*")]
    return sum(os.path.samestat(each, status) for each in found)


def _require_no_write_ahead_log(path: Path) -> None:
    """By name: the database itself must not be opened here, for closing it again would drop SQLite's locks on it."""
    for suffix in _NEVER_OURS:
        if os.path.lexists(_beside(path, suffix)):
            raise SpoolRefused(
                f"{path} has a write-ahead log beside it, which no spool has",
                path=path,
                hint="it was changed by another program",
            )


def _require_own_journal(journal: Path) -> None:
    """A journal's last eight bytes tell of a super-journal, the record of a transaction over several databases."""
    descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        end = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, len(_JOURNAL_MAGIC), max(0, end - len(_JOURNAL_MAGIC)))
    finally:
        os.close(descriptor)
    if tail == _JOURNAL_MAGIC:
        raise SpoolRefused(
            f"{journal} names another file, which SQLite would delete",
            path=journal,
            hint="it was not written by tracker-stream: remove it only if you know who made it",
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
