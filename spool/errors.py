"""Everything that can go wrong with a spool, as types.

SpoolError
├── DirectoryUnusable     the spool directory cannot serve (missing rights, not a directory, foreign owner, full)
│   └── LocksDoNotWork    its file system has no working file locks
├── SpoolRefused          this file must not be opened as a spool (symlink, foreign owner, not a spool)
│   ├── NewerSchema       written by a newer tracker-stream
│   └── NoSuchRun         no spool there
├── SpoolDamaged          SQLite or a checksum says that the file is damaged
├── SpoolFull             no space, quota or file size limit reached: nothing was written
├── SpoolUnavailable      an I/O error or a lock that did not come free: nothing is known to be written
├── ReentrantWrite        a signal handler wants to write in the middle of a write of the same thread
├── RunEnded              the run has ended, it takes no more rows
├── CsvTaken              somebody else has taken over rows of the run's CSV file meanwhile
├── ForkedSpool           used in a forked copy of the process that opened it
└── Owned                 another process delivers this run
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spool.model import Batch


class SpoolError(Exception):
    """Base of all errors of this package. `hint` says what a person can do, or is empty."""

    def __init__(self, message: str, *, path: Path | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class DirectoryUnusable(SpoolError):
    """The spool directory cannot be used."""


class LocksDoNotWork(DirectoryUnusable):
    """The file system of the spool directory has no working file locks."""


class SpoolRefused(SpoolError):
    """The file is not a spool of ours, or must not be trusted."""


class NewerSchema(SpoolRefused):
    """The spool was written by a newer version."""


class NoSuchRun(SpoolRefused):
    """There is no spool at that path or under that name."""


class SpoolDamaged(SpoolError):
    """The file is damaged; see `spool.recovery.recover`."""


class SpoolFull(SpoolError):
    """No space left (disk, quota or file size limit). Nothing of the transaction is in the spool."""


class SpoolUnavailable(SpoolError):
    """An I/O error, or the database stayed locked. The transaction was not acknowledged."""


class ReentrantWrite(SpoolError):
    """The code that a signal handler interrupted is writing. It goes on when the handler returns."""


class CsvTaken(SpoolError):
    """Rows of a CSV file were not appended: the spool holds more of the file than whoever appends them knows."""


class RunEnded(SpoolError):
    """Rows were appended to a run that has ended. `left`: those of them that are not in it; `csv_offset`: behind them."""

    def __init__(self, path: Path, *, left: Sequence[Batch] = (), csv_offset: int | None = None) -> None:
        super().__init__(f"run {path.stem} has ended and takes no more rows", path=path)
        self.left = left
        self.csv_offset = csv_offset


class ForkedSpool(SpoolError):
    """A spool handle crossed a fork. The copy must not touch it."""


class Owned(SpoolError):
    """Another living process owns the delivery of this run."""
