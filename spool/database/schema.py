"""The tables of a spool, version 1. Old spools are brought up to date here, newer ones and foreign ones are refused.

`batch` and `header` hold what the tracker appended; `segment` fixes ranges of batches; `run` is one row.
A batch has no state of its own: it is pending as long as no segment reaches up to it. So an append is a
single INSERT, and marking a segment sent touches one row however many batches it holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spool.errors import NewerSchema, SpoolRefused

if TYPE_CHECKING:
    import sqlite_utils

APPLICATION_ID = 0x54525331  # "TRS1": told apart from any other SQLite file
VERSION = 1
PAGE_BYTES = 4096

TABLES = """
CREATE TABLE run (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    spool_id TEXT NOT NULL,
    state TEXT NOT NULL,
    tracker TEXT NOT NULL,
    started_at REAL NOT NULL,
    token_salt BLOB NOT NULL,
    token_fingerprint TEXT,
    metadata TEXT NOT NULL,
    host_info TEXT,
    cloud_info TEXT,
    csv_path TEXT,
    api_url TEXT NOT NULL,
    s3_endpoint_url TEXT,
    upload_interval_s REAL NOT NULL,
    run_id TEXT,
    upload_uri_prefix TEXT,
    registered_at REAL,
    ended_at REAL,
    exit_code INTEGER,
    run_status TEXT,
    finish_answer TEXT,
    finished_at REAL,
    parked TEXT,
    problem TEXT,
    problem_cause TEXT,
    problem_at REAL
);
CREATE TABLE header (
    header_id INTEGER PRIMARY KEY AUTOINCREMENT,
    csv BLOB NOT NULL UNIQUE
);
CREATE TABLE batch (
    batch_id INTEGER PRIMARY KEY AUTOINCREMENT,
    header_id INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    csv_offset INTEGER,
    appended_at REAL NOT NULL,
    sha256 BLOB NOT NULL,
    csv BLOB NOT NULL
);
CREATE TABLE segment (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    first_batch_id INTEGER NOT NULL UNIQUE,
    last_batch_id INTEGER NOT NULL UNIQUE,
    header_id INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    csv_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    sealed_at REAL NOT NULL,
    sent_at REAL,
    uri TEXT,
    etag TEXT,
    refusal_count INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX segment_not_sent ON segment (seq) WHERE state <> 'sent';
"""


# What brings a spool of version N to version N + 1, by N, with sqlite-utils at hand: it must leave exactly the tables of
# the next version. Runs on a private copy that replaces the spool when all steps are done (`migration`), because
# sqlite-utils commits as it goes. Empty as long as version 1 is the only one there ever was.
Migration = Callable[["sqlite_utils.Database"], None]
MIGRATIONS: Mapping[int, Migration] = {}


def create(connection: sqlite3.Connection) -> None:
    """Write the tables of the current version into an empty database, inside the caller's transaction."""
    for statement in _statements(TABLES):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a spool that this version can open. Raises SpoolRefused, NewerSchema.

    A spool of this version must have exactly our tables: a trigger, a view or another column was planted, and would act
    on what we write.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise SpoolRefused(f"{path} is not a spool of tracker-stream", path=path)
    if version > VERSION:
        raise NewerSchema(
            f"{path} was written by a newer tracker-stream (schema {version}, this one knows {VERSION})",
            path=path,
            hint="upgrade tracker-stream with: pip install --upgrade tracker-stream",
        )
    if version == VERSION:
        _require_our_tables(connection, path)
    return int(version)


def _require_our_tables(connection: sqlite3.Connection, path: Path) -> None:
    ours = {*_statements(TABLES), "CREATE TABLE sqlite_sequence(name,seq)"}
    theirs = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
    if theirs != ours:
        names = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        odd = sorted(str(name) for name, sql in names if sql not in ours) or ["a table is missing"]
        raise SpoolRefused(
            f"{path} has other tables than a spool has ({', '.join(odd)[:100]})",
            path=path,
            hint="it was changed by another program; do not trust it",
        )


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    *,
    to_version: int = VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> None:
    """Bring the tables of an older spool up to date. Not atomic: for a copy that nobody else sees.

    Raises SpoolRefused if there is no way from its version to ours.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if any(step not in migrations for step in range(version, to_version)):
        raise SpoolRefused(f"{path} has schema {version}, which this tracker-stream cannot bring up to date", path=path)
    import sqlite_utils  # here only: nobody else waits for its import

    database = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    for step in range(version, to_version):
        migrations[step](database)
        connection.execute(f"PRAGMA user_version = {step + 1}")


def _statements(script: str) -> list[str]:
    return [statement.strip().removesuffix(";") for statement in script.split(";\n") if statement.strip()]
