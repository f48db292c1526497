"""Putting another file in a spool's place, while others may be using it: under SQLite's own locks, in one rename.

Killed at any line: the path holds either the old file or the whole new one. Everybody else waits for the lock meanwhile,
and then finds by the file's number that it was replaced (`Connection`). What is left of a killed attempt is a file named
`*.replacement-*`, which the next attempt removes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spool import system
from spool.database.connection import BUSY_TIMEOUT_S, file_identity
from spool.errors import SpoolUnavailable
from spool.trust import DAMAGED

_NEW = ".replacement-"
_POLL_S = 0.01


@contextmanager
def exclusively(path: Path, identity: tuple[int, int]) -> Iterator[int | None]:
    """A descriptor of the file, with nobody else in it; None if the file at `path` is not `identity` any more.

    The caller must not have the file open otherwise: closing any descriptor drops a process's locks.
    Raises SpoolUnavailable if the others do not leave within `BUSY_TIMEOUT_S`.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with _translated(path):
        descriptor = os.open(path, flags)
    try:
        _wait_for_lock(descriptor, path)
        status = os.fstat(descriptor)
        is_it = (status.st_dev, status.st_ino) == identity == file_identity(path)
        yield descriptor if is_it else None
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path) -> None:
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while not system.lock_database(descriptor):
        if time.monotonic() > give_up_at:
            raise SpoolUnavailable(f"the spool {path} stayed locked", path=path)
        time.sleep(_POLL_S)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty private file beside `path`, to be filled and then put in its place; removed if it was not."""
    _remove_leftovers(path)
    new = path.with_name(f"{path.name}{_NEW}{system.random_name()}")
    with _translated(path):
        system.create_private_file(new)
    try:
        yield new
    finally:
        for leftover in (new, _journal(new)):
            leftover.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}{_NEW}*"):
        leftover.unlink(missing_ok=True)


def put_in_place(new: Path, path: Path) -> None:
    """Let `new`, closed and whole, be the file at `path`. The old one is gone, unless `keep_aside` kept it."""
    with _translated(path):
        # First the journal: SQLite would play the old file's journal back into the new file.
        _journal(path).unlink(missing_ok=True)
        os.replace(new, path)
        system.sync_directory(path.parent)


def keep_aside(path: Path, descriptor: int) -> Path:
    """A second name for a damaged file (open as `descriptor`) and its journal, for people: we never remove it."""
    aside = _free_name(path)
    with _translated(path):
        _second_name(path, aside, descriptor)
        if _journal(path).exists():
            journal = os.open(_journal(path), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                _second_name(_journal(path), _journal(aside), journal)
            finally:
                os.close(journal)
        system.sync_directory(path.parent)
    return aside


def second_name(path: Path) -> Path:
    """Keep the file at `path` beside it, where hard links can be had. (It must not be opened: SQLite has locks on it.)"""
    aside = _free_name(path)
    with _translated(path):
        os.link(path, aside)
    return aside


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}{DAMAGED}{stamp}{more}") for more in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in names if not os.path.lexists(name))


def _second_name(path: Path, aside: Path, descriptor: int) -> None:
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        system.create_private_file(aside)
        system.copy_file(descriptor, aside)


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translates the operating system's errors: a SpoolError, `from` the original."""
    try:
        yield
    except OSError as error:
        raise system.translated_error(error, path) from error
