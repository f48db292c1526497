"""The server's SQLite file: runs, and tokens by their hash.

Invariants:
- What a caller was told (a run registered, a finish accepted) is on disk before the answer leaves: rollback journal with
  `synchronous=EXTRA`, every write in one transaction. SIGKILL or power loss at any line leaves the state before or after.
- A run is `registered` (finished_at is NULL) or finished (everything of the finish is set, in one UPDATE, once).
- A token is never stored, only its sha256 (it has 256 random bits: no salt or slow hash is needed against guessing).
- One connection per transaction: threads and processes share the file, never a connection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlite_utils import Database
from sqlite_utils.utils import OperationalError

from streaming.server.errors import DatabaseUnavailable

_PRAGMAS = ("journal_mode=DELETE", "synchronous=EXTRA", "busy_timeout=10000", "foreign_keys=ON", "secure_delete=ON")

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
    """Opens the file, makes its tables, and hands out transactions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self.transaction() as db:
            drop_unless_made_by(db.conn, _SESSIONS, ["sessions"])
            for statement in _SCHEMA:
                db.conn.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Database]:
        """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when an exception leaves the block."""
        with self._connection() as db:
            db.conn.isolation_level = None
            for pragma in _PRAGMAS:
                db.conn.execute(f"PRAGMA {pragma}").fetchone()
            db.conn.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.conn.execute("ROLLBACK")
                raise
            db.conn.execute("COMMIT")

    def rows(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """Read, outside any write transaction."""
        with self._connection() as db:
            db.conn.execute("PRAGMA busy_timeout=10000").fetchone()
            return list(db.query(sql, parameters))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Database]:
        """Closed after use; SQLite's operational errors become DatabaseUnavailable."""
        try:
            db = Database(str(self._path))
            try:
                yield db
            finally:
                db.close()
        except OperationalError as exc:
            raise DatabaseUnavailable(f"The database {self._path} cannot be used: {exc}.") from exc


def drop_unless_made_by(db: Any, statement: str, tables: list[str]) -> bool:
    """Drop `tables`, which can be made from others or be missed, if another version made the first. Whether it did."""
    found = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (tables[0],)).fetchone()
    if found is None or found[0] == statement.replace("IF NOT EXISTS ", ""):
        return False
    for table in tables:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    return True
