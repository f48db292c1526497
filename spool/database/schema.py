"""The tables of a spool, version 1, and writing a new one. Newer and foreign ones are refused.

`batch` and `header` hold what the tracker appended; `segment` fixes ranges of batches; `run` is one row.
A batch has no state of its own: it is pending as long as no segment reaches up to it. So an append is a
single INSERT, and marking a segment sent touches one row however many batches it holds.
"""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path

from spool import key, system
from spool.database.connection import Connection
from spool.errors import NewerSchema, SpoolRefused
from spool.model import Batch, NewRun, RunState, Tracker

APPLICATION_ID = 0x54525331  # "TRS1": told apart from any other SQLite file
VERSION = 1

# Room in the journal for sealing, marking and releasing (a page is 4 KiB, each touches fewer than fifteen), so that these
# need no room of the disk. SQLite takes a journal that begins with zeros for an old, harmless one, and writes over it.
JOURNAL_BYTES = 64 << 10

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


def create_file(path: Path, new: NewRun, *, first: Sequence[Batch] = (), csv_offset: int | None = None) -> None:
    """Write a new spool with its first batches, durably. Raises SpoolError; what is at `path` then is to be removed."""
    try:
        system.create_private_file(path)
        connection = Connection(path)
        with closing(connection), connection.transaction() as db:
            create_tables(db)
            insert_run(db, new)
            for batch in first:
                header_id = insert_header(db, batch.header)
                insert_batch(db, batch, header_id, csv_offset=csv_offset, appended_at=new.started_at)
        reserve_journal(path)
    except OSError as error:
        raise system.translated_error(error, path) from error


def reserve_journal(path: Path) -> None:
    """Give the journal of a new spool its room. Raises OSError, also on a full disk."""
    journal = path.with_name(path.name + "-journal")
    with suppress(FileExistsError):  # left by the transaction that created the tables
        system.create_private_file(journal)
    system.extend_file(journal, JOURNAL_BYTES)


def create_tables(connection: sqlite3.Connection) -> None:
    """Write the tables of the current version into an empty database, inside the caller's transaction."""
    for statement in _statements(TABLES):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def insert_run(db: sqlite3.Connection, new: NewRun) -> None:
    spool_id, salt = new_spool_id(), os.urandom(16)
    csv_path = None if new.csv_path is None else os.path.abspath(new.csv_path)
    db.execute(
        "INSERT INTO run (only_row, spool_id, state, tracker, started_at, token_salt, token_fingerprint, metadata,"
        " host_info, cloud_info, csv_path, api_url, s3_endpoint_url, upload_interval_s)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            spool_id,
            RunState.OPEN.value,
            json.dumps(asdict(proven(new.tracker, spool_id, csv_path, new.api_url))),
            new.started_at,
            salt,
            fingerprint(salt, new.token) if new.token else None,
            json.dumps(new.metadata),
            None if new.host_info is None else json.dumps(new.host_info),
            None if new.cloud_info is None else json.dumps(new.cloud_info),
            None if csv_path is None else path_value(csv_path),
            new.api_url,
            new.s3_endpoint_url,
            new.upload_interval_s,
        ),
    )


def proven(tracker: Tracker, spool_id: str, csv_path: str | None, api_url: str) -> Tracker:
    """With the proof that it is this user's, without which nobody takes over the rest of its CSV file."""
    if csv_path is None:
        return tracker
    return replace(tracker, proof=key.proof(key.origin(spool_id, tracker, csv_path, api_url)))


def insert_header(db: sqlite3.Connection, header: bytes) -> int:
    """The header line's id, given to it if it is new."""
    db.execute("INSERT OR IGNORE INTO header (csv) VALUES (?)", (header,))
    (header_id,) = db.execute("SELECT header_id FROM header WHERE csv = ?", (header,)).fetchone()
    return int(header_id)


def insert_batch(
    db: sqlite3.Connection, batch: Batch, header_id: int, *, csv_offset: int | None, appended_at: float
) -> int:
    """Add a batch behind all others. Returns its id."""
    cursor = db.execute(
        "INSERT INTO batch (header_id, row_count, csv_offset, appended_at, sha256, csv) VALUES (?, ?, ?, ?, ?, ?)",
        (header_id, batch.row_count, csv_offset, appended_at, batch.sha256, batch.rows),
    )
    return int(cursor.lastrowid or 0)


def path_value(path: str) -> str | bytes:
    """Text; bytes where a name in it is not UTF-8, which POSIX allows and SQLite's text does not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def new_spool_id() -> str:
    return os.urandom(16).hex()


def fingerprint(salt: bytes, token: str) -> str:
    """A keyed digest that recognises a token without holding it."""
    return hmac.new(salt, token.encode(), "sha256").hexdigest()[:32]


def open_checked(path: Path) -> Connection:
    """A connection to a spool of this version. Raises SpoolError."""
    connection = Connection(path)
    try:
        with connection.transaction() as db:
            check(db, path)
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is no spool of this version. Raises SpoolRefused, NewerSchema.

    A spool must have exactly our tables: a trigger, a view or another column was planted, and would act
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
    if version != VERSION:
        raise SpoolRefused(f"{path} has schema {version}, which no tracker-stream ever wrote", path=path)
    _require_our_tables(connection, path)


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


def _statements(script: str) -> list[str]:
    return [statement.strip().removesuffix(";") for statement in script.split(";\n") if statement.strip()]
