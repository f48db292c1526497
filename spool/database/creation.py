"""Writing a new spool: its tables, its run record, the room in its journal."""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from spool import space, system
from spool.database import schema
from spool.database.connection import Connection
from spool.model import Batch, NewRun, RunState
from spool.recovery import replace


def create_file(path: Path, new: NewRun, *, first: Sequence[Batch] = (), csv_offset: int | None = None) -> None:
    """Write a new spool with its first batches, durably. Raises SpoolError; what is at `path` then is to be removed."""
    try:
        system.create_private_file(path)
        connection = Connection(path)
        with closing(connection), connection.transaction() as db:
            schema.create(db)
            insert_run(db, new)
            for batch in first:
                header_id = insert_header(db, batch.header)
                insert_batch(db, batch, header_id, csv_offset=csv_offset, appended_at=new.started_at)
        space.reserve_journal(path)
    except OSError as error:
        raise replace.translate(error, path) from error


def insert_run(db: sqlite3.Connection, new: NewRun) -> None:
    salt = os.urandom(16)
    db.execute(
        "INSERT INTO run (only_row, spool_id, state, tracker, started_at, token_salt, token_fingerprint, metadata,"
        " host_info, cloud_info, csv_path, api_url, s3_endpoint_url, upload_interval_s)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new_spool_id(),
            RunState.OPEN.value,
            json.dumps(asdict(new.tracker)),
            new.started_at,
            salt,
            fingerprint(salt, new.token) if new.token else None,
            json.dumps(new.metadata),
            None if new.host_info is None else json.dumps(new.host_info),
            None if new.cloud_info is None else json.dumps(new.cloud_info),
            None if new.csv_path is None else _path_value(os.path.abspath(new.csv_path)),
            new.api_url,
            new.s3_endpoint_url,
            new.upload_interval_s,
        ),
    )


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


def _path_value(path: str) -> str | bytes:
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
