"""Runs in a service, made without an uploader: registered, their objects put with the admin's keys, finished."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.objects import Bucket
from tests.streaming.server.conftest import Service
from tests.streaming.server.web.rows import METADATA, csv_of, objects_of, rows


class Runs:
    """Makes runs of one service; each method returns the run's id."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def finished(
        self,
        count: int = 900,
        *,
        rows_per_object: int = 60,
        missing: tuple[int, ...] = (),
        exit_code: int = 0,
        started_at: float | None = None,
        drop: str = "-",
        only: Sequence[str] = (),
        **metadata: Any,
    ) -> str:
        """A run that delivered `count` rows as objects, but for objects at the `missing` places; without columns that have
        `drop` in their names, with these `only`."""
        run = self._service.register(**{**METADATA, **metadata})
        table = rows(start=started_at or time.time() - count, count=count)
        table = table.select([name for name in only or table.column_names if drop not in name])
        objects = objects_of(table, rows_per_object=rows_per_object)
        uris = self.put(run, [found for place, found in enumerate(objects) if place not in missing])
        body = {
            "data_source": "s3",
            "data_uris": uris,
            "run_status": "failed" if exit_code else "finished",
            "exit_code": exit_code,
        }
        self._finish(run, body)
        return str(run["run_id"])

    def inline(self, count: int = 30, **metadata: Any) -> str:
        """A short run whose rows came with its finish."""
        run = self._service.register(**metadata)
        text = csv_of(rows(start=time.time() - count, count=count)).decode()
        self._finish(run, {"data_source": "inline", "data_csv": text, "run_status": "finished", "exit_code": 0})
        return str(run["run_id"])

    def live(self, count: int = 120, **metadata: Any) -> str:
        """A run that goes on and has delivered some rows."""
        run = self._service.register(**{**METADATA, **metadata})
        if count:
            self.put(run, objects_of(rows(start=time.time() - count, count=count), rows_per_object=60))
        return str(run["run_id"])

    def job(self, job_id: str, *, ranks: int, per_node: int = 8, straggler: int | None = None) -> None:
        """A finished job as the list knows it, all in one transaction: no rows. Its last rank took two attempts."""
        database = ServerDatabase(Path(self._service.app.state.settings.directory) / "server.db")
        listing, began_at = self._service.app.state.runs.listing, time.time() - 1000
        with database.transaction() as db:
            for number in range(ranks + 1):
                rank, attempt = min(number, ranks - 1), number // ranks
                tags = {"job": job_id, "rank": str(rank), "host": f"n{rank // per_node}", "attempt": str(attempt)}
                metadata = {"job_name": "simulate", "tags": tags}
                start = began_at + (rank == ranks - 1) * attempt * 600
                end = start + (300 if rank == ranks - 1 else 900)
                cpu = 0.1 if rank == straggler else 2.0
                sketch = {
                    "average_cpu": cpu,
                    "peak_memory_mib": 900.0 + rank % 7,
                    "cpu": [cpu] * 60,
                    "memory": [900.0] * 60,
                }
                figures = {"row_count": 900, "first_timestamp": start, "last_timestamp": end, "sketch": sketch}
                run_id = uuid.uuid4().hex
                at = [
                    datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="microseconds")
                    for moment in (start, end)
                ]
                inserted = db.conn.execute(
                    "INSERT INTO runs (run_id, token_id, prefix, metadata, registered_at, finished_at, ended_at, run_status,"
                    " exit_code, data_uris, statistics) VALUES (?, 1, ?, ?, ?, ?, ?, 'finished', 0, '[]', ?)",
                    (
                        run_id,
                        f"runs/{run_id}",
                        json.dumps(metadata),
                        at[0],
                        at[1],
                        at[1],
                        json.dumps({**figures, "complete": True}),
                    ),
                )
                listing.add(db.conn, inserted.lastrowid)

    def put(self, run: dict[str, Any], objects: list[tuple[str, bytes]]) -> list[str]:
        """Their URIs."""
        uris = [f"{run['upload_uri_prefix']}/{name}" for name, _ in objects]
        with Bucket(self._service.s3) as store:
            for uri, (_, content) in zip(uris, objects, strict=True):
                key = uri.removeprefix(f"s3://{store.bucket}/")
                store._client.put_object(Bucket=store.bucket, Key=key, Body=content)
        return uris

    def _finish(self, run: dict[str, Any], body: dict[str, Any]) -> None:
        answer = self._service.post(f"/runs/{run['run_id']}/finish", body)
        assert answer.ok, answer.text
