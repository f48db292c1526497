"""The one way into a spool's database: pragmas, transactions, and sqlite3's errors translated into ours."""

from __future__ import annotations

import math
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from spool import system
from spool.errors import (
    ForkedSpool,
    ReentrantWrite,
    SpoolDamaged,
    SpoolError,
    SpoolFull,
    SpoolRefused,
    SpoolUnavailable,
)
from spool.model import BATCH_MAX_BYTES

BUSY_TIMEOUT_S = 10.0
PAGE_BYTES = 4096
SMALL_PAGE_BYTES = 512  # of a small run that has ended: its ten tables and indices have a page each
_BUDGET_STEP = 1_000_000  # of SQLite's own instructions
_BUDGET_PER_PAGE = 10_000  # a page holds at most some hundred rows
BLOB_MAX_BYTES = BATCH_MAX_BYTES + (1 << 20)  # no honest batch is larger; a hostile file must not take all memory

# Rollback journal, never WAL: before SQLite 3.51.3 two processes can lose commits in it, and it cannot work on NFS.
# PERSIST keeps the journal file and commits by syncing a zeroed journal header: the same safety as DELETE without creating
# and unlinking a file for every append (0.63 ms instead of 0.83 ms on the machine this was written on), and on a full disk
# the space for the next journal is already there.
PRAGMAS = {
    "page_size": PAGE_BYTES,
    "journal_mode": "persist",
    "journal_size_limit": 1 << 20,
    "synchronous": "extra",
    "fullfsync": "on",  # only macOS needs it: there fsync alone does not reach the medium
    "trusted_schema": "off",
    "cell_size_check": "on",
    "secure_delete": "off",  # Debian's SQLite has it on: freeing rows would then need as much room in the journal
    "mmap_size": 0,
    "temp_store": "memory",
    "cache_size": -1024,  # KiB; the uploader and its caller each have one
}

# sqlite3.Error carries the code from Python 3.11 on; before, only SQLite's fixed text tells which it was.
_ERROR_BY_CODE: dict[int, type[SpoolError]] = {
    5: SpoolUnavailable,  # SQLITE_BUSY
    6: SpoolUnavailable,  # SQLITE_LOCKED
    8: SpoolUnavailable,  # SQLITE_READONLY
    10: SpoolUnavailable,  # SQLITE_IOERR
    9: SpoolDamaged,  # SQLITE_INTERRUPT: `_Budget`
    11: SpoolDamaged,  # SQLITE_CORRUPT
    13: SpoolFull,  # SQLITE_FULL
    778: SpoolFull,  # SQLITE_IOERR_WRITE: what a quota (EDQUOT) and a file size limit (EFBIG) look like from here
    14: SpoolUnavailable,  # SQLITE_CANTOPEN
    15: SpoolUnavailable,  # SQLITE_PROTOCOL
    23: SpoolUnavailable,  # SQLITE_AUTH
    26: SpoolDamaged,  # SQLITE_NOTADB
}
_ERROR_BY_TEXT: dict[str, type[SpoolError]] = {
    "database or disk is full": SpoolFull,
    "database disk image is malformed": SpoolDamaged,
    "interrupted": SpoolDamaged,
    "file is not a database": SpoolDamaged,
}

_NO_FILE = (0, 0)

# Connections of the parent that a forked child inherited. They are never closed there: closing one in the middle of
# the parent's transaction would roll back the parent's journal. Nor are those whose descriptor the program has closed.
_inherited: list[object] = []


class Connection:
    """A connection to one spool file, usable from any thread of the process that opened it.

    Every statement runs inside `transaction()` or `reading()`. Readers and the writer of this connection take turns.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing file. Raises SpoolError (see `spool.errors`)."""
        self.path = path
        self.generation = 0  # how often the file behind the path was replaced (recovered) meanwhile
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._is_writing = False
        self._identity = file_identity(path)
        self._budget = _Budget(path)
        with translated(path):
            self._db = self._connect()
        self._descriptors = system.descriptors_on(self._identity)
        _open_connections.add(self)

    def _connect(self) -> sqlite3.Connection:
        database = _connect(self.path)
        database.set_progress_handler(self._budget, _BUDGET_STEP)
        return database

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block is left normally (BEGIN IMMEDIATE ... COMMIT).

        After an error nothing of the block is visible to anyone, with one exception: when COMMIT itself reports an
        I/O error nobody knows. `Spool.append` asks the reopened file then.
        """
        self._refuse_if_forked()
        with self._lock, translated(self.path):
            if self._is_writing:
                raise ReentrantWrite("a signal handler may not write in the middle of a write", path=self.path)
            try:
                self._is_writing = True
                self._budget.spent = -math.inf  # statements that write look for single rows
                self._begin()
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._is_writing = False

    def _roll_back(self) -> None:
        """End the open transaction, if there is one: SQLite may have rolled back by itself (full, I/O error)."""
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a SELECT. The read transaction is over when this returns, so it never blocks a writer for long."""
        self._refuse_if_forked()
        with self._lock, translated(self.path):
            self._follow_replacement()
            self._budget.spent = 0
            return self._db.execute(sql, parameters).fetchall()

    def query_until(
        self, sql: str, parameters: Sequence[Any], is_enough: Callable[[tuple[Any, ...]], bool]
    ) -> list[Any]:
        """The first rows of a SELECT, the last being that at which it is enough: for reading a lot in bounded pieces."""
        self._refuse_if_forked()
        rows = []
        with self._lock, translated(self.path):
            self._follow_replacement()
            self._budget.spent = 0
            with closing(self._db.execute(sql, parameters)) as cursor:
                for row in cursor:
                    rows.append(row)
                    if is_enough(row):
                        break
        return rows

    def _begin(self) -> None:
        """Take the write lock of the file that is at the path now.

        A file that was removed or replaced while we waited for its lock would still take our rows, and lose them.
        """
        while True:
            self._follow_replacement()
            if self._db.in_transaction:  # a second signal interrupted the end of the last one
                self._roll_back()
            self._db.execute("BEGIN IMMEDIATE")
            if not self._follow_replacement():
                return

    def _follow_replacement(self) -> bool:
        """Open the file anew if another one is at the path (somebody recovered it), or if the program has closed its
        descriptor: under its number may be any file by now. Raises SpoolUnavailable if no file is at the path."""
        is_same = file_identity(self.path) == self._identity
        if is_same and not self._is_severed():
            return False
        self.reopen()
        self.generation += not is_same
        return True

    def _is_severed(self) -> bool:
        """Whether SQLite's descriptor was closed behind its back. It must then never use it again, not even to close it."""
        return bool(self._descriptors) and not system.is_open_on(self._descriptors, self._identity)

    def _release(self) -> None:
        if self._is_severed():
            _make_immortal(self._db)
        else:
            with suppress(sqlite3.Error):
                self._db.close()

    def shrink(self) -> None:
        """Write the whole database anew in small pages: for a file that is small and will not grow. All or nothing."""
        self._refuse_if_forked()
        with self._lock, translated(self.path):
            self._follow_replacement()
            self._budget.spent = -math.inf
            self._db.execute(f"PRAGMA page_size = {SMALL_PAGE_BYTES}")
            self._db.execute("VACUUM")

    def page_bytes(self) -> int:
        return int(self.query("PRAGMA page_size")[0][0])

    def cut_journal(self, to_bytes: int) -> None:
        """Let the journal keep so much room at most. Only a writer has use for it, and meanwhile there is none."""
        journal = self.path.with_name(self.path.name + "-journal")
        with self.transaction():
            if journal.stat().st_size > to_bytes:
                os.truncate(journal, to_bytes)

    def reopen(self) -> None:
        """Drop everything the connection believes about the file, after an I/O error."""
        with self.released():
            pass

    @contextmanager
    def released(self) -> Iterator[None]:
        """Hold no handle of the file inside the block: afterwards it may be another one."""
        with self._lock, translated(self.path):
            self._release()
            self._identity, self._descriptors = (
                _NO_FILE,
                frozenset(),
            )  # if it cannot be opened again now, the next use tries
            try:
                yield
            finally:
                identity = file_identity(self.path)
                self._db = self._connect()
                self._identity, self._descriptors = identity, system.descriptors_on(identity)

    def close(self) -> None:
        """Release the file. Harmless twice, and in a forked copy does nothing."""
        if self._pid == os.getpid():
            with self._lock:
                self._release()
            _open_connections.discard(self)

    def _refuse_if_forked(self) -> None:
        if self._pid != os.getpid():
            raise ForkedSpool("this spool was opened before a fork, by the parent process", path=self.path)


class _Budget:
    """How much work a statement may be: a page that names another one many times over makes a small file endless."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.spent = 0.0

    def __call__(self) -> bool:
        """True, which interrupts the statement, when it has done far more than a file of this size can ask for."""
        self.spent += _BUDGET_STEP
        with suppress(OSError):
            return self.spent > _BUDGET_STEP + _BUDGET_PER_PAGE * (os.stat(self._path).st_size // PAGE_BYTES)
        return False


def file_identity(path: Path) -> tuple[int, int]:
    """Which file is at the path: device and number. Raises SpoolUnavailable if none is."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpoolUnavailable(
            f"the spool {path} has vanished ({error.strerror})",
            path=path,
            hint=f"bring {path.parent} back, or give another directory for the next run",
        ) from error
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"file:{_quoted(path)}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if sys.version_info >= (3, 11):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BLOB_MAX_BYTES)
        for name, value in PRAGMAS.items():
            database.execute(f"PRAGMA {name} = {value}")
    except BaseException:
        database.close()
        raise
    return database


_open_connections: set[Connection] = set()


def _keep_inherited_open() -> None:
    """In a forked child: make the parent's connections immortal, so that not even interpreter exit closes them."""
    for connection in _open_connections:
        _make_immortal(connection._db)
    _open_connections.clear()


def _make_immortal(database: sqlite3.Connection) -> None:
    _inherited.append(database)
    with suppress(ImportError, AttributeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(database))


os.register_at_fork(after_in_child=_keep_inherited_open)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Foreign errors are translated here: what sqlite3 raises inside becomes a SpoolError, `from` the original."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error
    except (
        OverflowError,
        UnicodeDecodeError,
    ) as error:  # what sqlite3 cannot hand over, of a message of SQLite's own too
        raise SpoolDamaged(f"the spool {path} holds a value that cannot be read", path=path) from error


def _translate(error: sqlite3.Error, path: Path) -> SpoolError:
    kind = _kind(error, path)
    if kind is SpoolFull:
        return SpoolFull(
            f"no room left for the spool {path} (disk full, quota, or file size limit)",
            path=path,
            hint=system.MAKE_ROOM,
        )
    if kind is SpoolDamaged:
        return SpoolDamaged(f"the spool {path} is damaged ({str(error)[:100]!r})", path=path)
    if kind is SpoolRefused:
        return SpoolRefused(f"{path} does not hold what a spool holds ({error})", path=path)
    return SpoolUnavailable(f"the spool {path} cannot be used now ({error})", path=path)


def _kind(error: sqlite3.Error, path: Path) -> type[SpoolError]:
    if _is_no_text(error):
        return SpoolDamaged
    if sys.version_info >= (3, 11):
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            return _ERROR_BY_CODE.get(code) or _ERROR_BY_CODE.get(code & 0xFF, SpoolRefused)
    if str(error) == "disk I/O error":  # a write that found no room, or a disk that fails: the text does not tell
        return SpoolFull if system.lacks_room(path) else SpoolUnavailable
    return _ERROR_BY_TEXT.get(str(error), SpoolUnavailable)


def _is_no_text(error: sqlite3.Error) -> bool:
    """A flipped bit in a text; this error is the module's own, not SQLite's, and has no code."""
    return str(error).startswith("Could not decode to UTF-8")


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path.absolute()))
