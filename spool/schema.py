"""The tables of a spool, version 1. Old spools are brought up to date here, newer ones are refused.

`batch` and `header` hold what the tracker appended; `segment` fixes ranges of batches; `run` is one row.
A batch has no state of its own: it is pending as long as no segment reaches up to it. So an append is a
single INSERT, and marking a segment sent touches one row however many batches it holds.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from spool.errors import NewerSchema, SpoolRefused

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


def create(connection: sqlite3.Connection) -> None:
    """Write the tables of the current version into an empty database, inside the caller's transaction."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not a spool of this version or an older one. Raises SpoolRefused, NewerSchema."""
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
