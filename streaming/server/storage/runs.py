"""The runs that the service knows. Every method is one transaction, durable on return."""

from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from streaming.server.storage.changes import RunChanges
from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.listing import RunListing

_COLUMNS = (
    "run_id, token_id, prefix, metadata, registered_at, finished_at, ended_at, run_status, exit_code, "
    "data_source, data_uris, statistics"
)


@dataclass(frozen=True)
class RegisteredRun:
    """A run as the database holds it, without its inline rows (`RunStore.inline_csv`). `prefix` is one of keys."""

    run_id: str
    token_id: int
    prefix: str
    metadata: dict[str, Any]
    registered_at: datetime
    finished_at: datetime | None
    ended_at: datetime | None
    run_status: str | None
    exit_code: int | None
    data_source: str | None
    data_uris: tuple[str, ...]
    statistics: dict[str, Any] | None

    @property
    def is_finished(self) -> bool:
        return self.finished_at is not None


@dataclass(frozen=True)
class Finish:
    """What a finish said. `ended_at` None means: now."""

    run_status: str
    exit_code: int | None
    ended_at: datetime | None
    data_uris: tuple[str, ...] | None = None
    data_csv: str | None = None


class RunStore:
    """All runs of a server; `token_id` decides whose are seen."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database
        self.listing = RunListing(database)
        self.changes = RunChanges(database, self.listing)

    def find_registered(self, token_id: int, idempotency_key: str | None) -> str | None:
        """The id of the run that this token registered with this key, if it did."""
        rows = self._database.rows(
            "SELECT run_id FROM runs WHERE token_id = ? AND idempotency_key = ?", (token_id, idempotency_key)
        )
        return str(rows[0]["run_id"]) if rows else None

    def register(
        self, token_id: int, metadata: dict[str, Any], *, run_id: str, idempotency_key: str | None
    ) -> tuple[RegisteredRun, bool]:
        """A new run, or the one that this token registered with the same key; whether it is new."""
        with self._database.transaction() as db:
            inserted = db.conn.execute(
                "INSERT INTO runs (run_id, token_id, idempotency_key, prefix, metadata, registered_at) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (token_id, idempotency_key) DO NOTHING",
                (run_id, token_id, idempotency_key, key_prefix(run_id), json.dumps(metadata), _text(_utc_now())),
            )
            if inserted.rowcount:
                self.listing.add(db.conn, inserted.lastrowid)
            else:
                found = db.conn.execute(
                    "SELECT run_id FROM runs WHERE token_id = ? AND idempotency_key = ?", (token_id, idempotency_key)
                ).fetchone()
                run_id = found[0]
        run = self.get(run_id)
        assert run is not None
        return run, bool(inserted.rowcount)

    def get(self, run_id: str, *, token_id: int | None = None) -> RegisteredRun | None:
        """The run, if there is one (and it belongs to the token, where one is given)."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM runs WHERE run_id = ?", (run_id,))  # noqa: S608
        run = _run(rows[0]) if rows else None
        return None if run and token_id is not None and run.token_id != token_id else run

    def of_token(self, token_id: int | None) -> list[RegisteredRun]:
        """All runs of the token (None: of all tokens), the newest first."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM runs WHERE ? IS NULL OR token_id = ? ORDER BY id DESC",  # noqa: S608
            (token_id, token_id),
        )
        return [_run(row) for row in rows]

    def unsettled(self, *, finished_after: datetime) -> list[RegisteredRun]:
        """Runs that go on, and those finished lately whose figures are not complete; the newest first."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM runs WHERE id IN (SELECT id FROM listing WHERE is_settled = 0) "  # noqa: S608
            "AND (finished_at IS NULL OR finished_at > ?) ORDER BY id DESC",
            (_text(finished_after),),
        )
        return [_run(row) for row in rows]

    def finish(self, run_id: str, finish: Finish) -> bool:
        """Record the finish; False if the run was finished already (nothing is changed then)."""
        csv = None if finish.data_csv is None else gzip.compress(finish.data_csv.encode(), mtime=0)
        now = _utc_now()
        with self._database.transaction() as db:
            changed = db.conn.execute(
                "UPDATE runs SET finished_at = ?, ended_at = ?, run_status = ?, exit_code = ?, data_source = ?, "
                "data_uris = ?, data_csv = ? WHERE run_id = ? AND finished_at IS NULL",
                (
                    _text(now),
                    _text(finish.ended_at or now),
                    finish.run_status,
                    finish.exit_code,
                    "inline" if finish.data_uris is None else "s3",
                    json.dumps(finish.data_uris or ()),
                    csv,
                    run_id,
                ),
            )
            if changed.rowcount:
                self.listing.finish(db.conn, run_id)
        return bool(changed.rowcount)

    def set_statistics(self, run_id: str, statistics: dict[str, Any]) -> None:
        """Keep what was computed; it can be computed again."""
        with self._database.transaction() as db:
            db.conn.execute("UPDATE runs SET statistics = ? WHERE run_id = ?", (json.dumps(statistics), run_id))
            self.listing.note_figures(db.conn, run_id, statistics)

    def inline_csv(self, run_id: str) -> bytes | None:
        """The rows that came with an inline finish, uncompressed; None if there were none."""
        rows = self._database.rows("SELECT data_csv FROM runs WHERE run_id = ?", (run_id,))
        return gzip.decompress(rows[0]["data_csv"]) if rows and rows[0]["data_csv"] is not None else None


def new_run_id() -> str:
    return uuid.uuid4().hex


def key_prefix(run_id: str) -> str:
    """Where in the bucket a run's objects lie."""
    return f"runs/{run_id}"


def _run(row: dict[str, Any]) -> RegisteredRun:
    values = dict(row)
    for name in ("registered_at", "finished_at", "ended_at"):
        values[name] = datetime.fromisoformat(row[name]) if row[name] else None
    values["metadata"] = json.loads(row["metadata"])
    values["data_uris"] = tuple(json.loads(row["data_uris"] or "[]"))
    values["statistics"] = json.loads(row["statistics"]) if row["statistics"] else None
    return RegisteredRun(**values)


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


def _text(moment: datetime) -> str:
    """Sorts as it reads: always UTC, always microseconds."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")
