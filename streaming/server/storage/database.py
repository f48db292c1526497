"""The server's SQLite file: runs, and tokens by their hash.

Invariants:
- What a caller was told (a run registered, a finish accepted) is on disk before the answer leaves: rollback journal with
  `synchronous=EXTRA` (truncated, not deleted: that saves a sync), every write in one transaction. SIGKILL or power loss at
  any line leaves the state before or after.
- Writers that wait for each other share a COMMIT, for its syncs take longer than all that they write; each is a savepoint,
  so that what one raises undoes its own part only. None is answered before that COMMIT.
- A run is `registered` (finished_at is NULL) or finished (everything of the finish is set, in one UPDATE, once).
- A token is never stored, only its sha256 (it has 256 random bits: no salt or slow hash is needed against guessing).
- A connection is one thread's at a time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming.server.errors import DatabaseUnavailable


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """As if these packages were not installed, unless they have been imported already."""
    absent = dict.fromkeys(name for name in names if name not in sys.modules)
    sys.modules.update(absent)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _without("pandas", "numpy"):  # which it imports, for types of columns, where they are: a second of every start
    from sqlite_utils import Database

_PRAGMAS = ("busy_timeout=10000", "journal_mode=TRUNCATE", "synchronous=EXTRA", "foreign_keys=ON", "secure_delete=ON")
_MOST_TOGETHER = 100  # writers of one COMMIT
_MOST_IDLE = 8  # connections: to open one takes as long as to ask it something

_SESSIONS = """CREATE TABLE IF NOT EXISTS sessions (
    hash TEXT PRIMARY KEY,
    token_id INTEGER NOT NULL REFERENCES tokens(id),
    token_hash TEXT NOT NULL,  -- a token made anew under the same name does not revive old sessions
    expires_at TEXT NOT NULL
)"""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        hash TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        revoked_at TEXT
    )""",
    _SESSIONS,
    "CREATE TABLE IF NOT EXISTS notes (run_id TEXT PRIMARY KEY, notes TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        token_id INTEGER NOT NULL REFERENCES tokens(id),
        idempotency_key TEXT,
        prefix TEXT NOT NULL,
        metadata TEXT NOT NULL,
        registered_at TEXT NOT NULL,
        finished_at TEXT,          -- when the service accepted the finish
        ended_at TEXT,             -- when the run ended, as its finish says
        run_status TEXT,
        exit_code INTEGER,
        data_source TEXT,
        data_uris TEXT,            -- JSON list
        data_csv BLOB,             -- gzip
        statistics TEXT,           -- JSON, once computed
        UNIQUE (token_id, idempotency_key)
    )""",
)


class ServerDatabase:
    """Opens the file, makes its tables, and hands out transactions. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[Database] = []
        self._turn = threading.Lock()  # of the one that writes
        self._in_line: set[object] = set()  # those who wait for it
        self._group: _Group | None = None
        weakref.finalize(self, _close_all, self._idle)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self.transaction() as db:
            drop_unless_made_by(db.conn, _SESSIONS, ["sessions"])
            for statement in _SCHEMA:
                db.conn.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Database]:
        """On disk when the block is left normally; nothing of it, when an exception leaves it. Raises DatabaseUnavailable."""
        place = object()
        self._in_line.add(place)
        with self._translated():
            with self._turn:
                self._in_line.discard(place)
                group = self._group = self._group or _Group(self._take())
                try:
                    with group.part() as db:
                        yield db
                finally:
                    if not self._in_line or group.is_full:
                        self._group = None
                        group.end()
                        self._give_back(group.db)
            group.wait()

    def rows(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """Read, outside any write transaction."""
        with self._translated():
            db = self._take()
            try:
                return list(db.query(sql, parameters))
            finally:
                self._give_back(db)

    def _take(self) -> Database:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        db = Database(sqlite3.connect(self._path, isolation_level=None, check_same_thread=False))
        for pragma in _PRAGMAS:
            db.conn.execute(f"PRAGMA {pragma}").fetchone()
        return db

    def _give_back(self, db: Database) -> None:
        if db.conn.in_transaction or len(self._idle) >= _MOST_IDLE:
            db.close()
        else:
            self._idle.append(db)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise DatabaseUnavailable(f"The database {self._path} cannot be used: {exc}.") from exc


class _Group:
    """Writers whose parts one COMMIT makes durable. All but `wait` is called by one thread at a time."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._size = 0
        self._error: BaseException | None = None
        self._is_over = threading.Event()

    @property
    def is_full(self) -> bool:
        return self._size >= _MOST_TOGETHER or self._error is not None

    @contextlib.contextmanager
    def part(self) -> Iterator[Database]:
        """One writer's."""
        if self._size == 0:
            self.db.conn.execute("BEGIN IMMEDIATE")
        self._size += 1
        self.db.conn.execute("SAVEPOINT part")
        try:
            yield self.db
            self.db.conn.execute("RELEASE part")
        except BaseException as exc:
            self._undo_part(exc)
            raise

    def _undo_part(self, cause: BaseException) -> None:
        if not self.db.conn.in_transaction:  # as on a full disk: SQLite has undone the parts of all
            self._error = cause
            return
        try:
            self.db.conn.execute("ROLLBACK TO part")
            self.db.conn.execute("RELEASE part")
        except sqlite3.Error as exc:
            self._error = exc

    def end(self) -> None:
        """Make it durable, or nothing of it; those who wait are told."""
        try:
            if self._error is None and self._size:
                self.db.conn.execute("COMMIT")
        except sqlite3.Error as exc:
            self._error = exc
        finally:
            if self.db.conn.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self.db.conn.execute("ROLLBACK")
            self._is_over.set()

    def wait(self) -> None:
        """Until it is durable. Raises sqlite3.OperationalError if it never will be."""
        self._is_over.wait()
        if self._error is not None:
            raise sqlite3.OperationalError(str(self._error)) from self._error


def _close_all(databases: list[Database]) -> None:
    for db in databases:
        db.close()


def drop_unless_made_by(db: Any, statement: str, tables: list[str]) -> bool:
    """Drop `tables`, which can be made from others or be missed, if another version made the first. Whether it did."""
    found = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (tables[0],)).fetchone()
    if found is None or found[0] == statement.replace("IF NOT EXISTS ", ""):
        return False
    for table in tables:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    return True
