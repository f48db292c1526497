"""Rows 11 to 14: looking at what was delivered: a run's first picture, the list of runs, questions in SQL, a lake."""

from __future__ import annotations

import json
import random
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock

import duckdb

import streaming
from benchmarks.rows import HEADER, Rows
from benchmarks.spools import new_run, recorded
from benchmarks.table import Figure, Measured
from benchmarks.world import World
from spool import Registration, Spool
from streaming.read.lake import build
from streaming.server.metrics import parts
from streaming.server.metrics.parse import ObjectFacts, parse_texts
from streaming.server.metrics.reader import RunReader
from streaming.server.storage import database as server_database
from streaming.server.storage.listing import ListQuery
from streaming.server.storage.runs import Finish, RegisteredRun, RunStore, new_run_id
from streaming.tables.series import Window, series

SQL = "SELECT job_name, max(process_memory_mib) FROM rows JOIN runs USING (run) GROUP BY 1"
COLUMNS = ("system_cpu_usage", "process_cpu_usage", "system_memory_used_mib", "process_memory_mib")
RANKS = 1000
AT_ONCE = 16


def measure_reading(world: World) -> Measured:
    """Each in this process, one after the other."""
    folder = world.folder("reading")
    figures = [_first_look(world, folder), *_list(world, folder), *_queries(world, folder)]
    return Measured(
        figures, ["Rows 11 to 14: without a browser and without a network; Parquet and spools on the disk."]
    )


def _first_look(world: World, folder: Path) -> Figure:
    """A server that was just started, and a finished run whose objects were parsed when they came."""
    objects, rows_each = world.pick(10_000, 500), 60
    rows, run_folder = Rows(), folder / "cache" / "run"
    run_folder.mkdir(parents=True)
    keys = [f"runs/run/{number:08d}.csv.gz" for number in range(1, objects + 1)]
    per_part = objects // 5
    for part in range(5):
        texts = [
            (ObjectFacts(keys[at], "etag", 1, float(at)), HEADER + rows.block(at * rows_each, rows_each))
            for at in range(part * per_part, (part + 1) * per_part)
        ]
        parts.write(parts.numbered(run_folder, part + 1), *parse_texts(texts))
    now = datetime.now(timezone.utc)
    uris = tuple(f"s3://bucket/{key}" for key in keys)
    run = RegisteredRun("run", 1, "runs/run", {}, now, now, now, "finished", 0, "s3", uris, {"complete": True})

    def look() -> float:
        started = time.perf_counter()
        with closing(RunReader(Mock(), Mock(), folder / "cache")) as reader:
            found = reader.read(run).rows
            assert found.figures["row_count"] == objects * rows_each
            series(found.timestamps, found.column, COLUMNS, Window(None, None, 1200))
        return time.perf_counter() - started

    taken = median(look() for _ in range(3))
    return _figure(
        "11", f"first look at a finished run of {objects * rows_each:,} rows in {objects:,} objects", taken, 2.0
    )


def _list(world: World, folder: Path) -> list[Figure]:
    database = server_database.ServerDatabase(folder / "server.db")
    with database.transaction() as db:
        db.conn.execute("INSERT INTO tokens (name, hash, created_at) VALUES ('bench', 'x', 'now')")
    runs = RunStore(database)
    few = _runs_a_second(runs, 200)
    fill(database, runs, world.pick(100_000, 5_000))
    many = _runs_a_second(runs, 200)
    page = median(_timed(lambda: runs.listing.page(ListQuery(1, time.time(), sort="-started_at"))) for _ in range(5))
    fill(database, runs, RANKS, job="39")
    folded = ListQuery(1, time.time(), sort="-started_at", is_folded=True)
    jobs = median(_timed(lambda: runs.listing.page(folded)) for _ in range(5))
    job = median(_timed(lambda: json.dumps(runs.listing.members(1, "39", time.time(), most=RANKS))) for _ in range(5))
    text = f"register and finish runs, {AT_ONCE} at once: {few:.0f} a second at 100 runs, then"
    return [
        _figure("12", "a page of the list, at 100,000 runs", page, 0.03),
        _figure("", "the same with jobs as one line each", jobs, 0.15),
        _figure("", f"what the page of a job of {RANKS:,} ranks asks for, both heat maps in it", job, 0.5),
        Figure(
            "",
            text,
            f"{many:.0f} a second at 100,000",
            "",
            "",
            "the same, at least 100",
            many >= max(few * 0.8, 100),
            {"few": few, "many": many},
        ),
    ]


def _runs_a_second(runs: RunStore, count: int) -> float:
    def one(_: int) -> None:
        run_id = new_run_id()
        runs.register(1, _metadata(), run_id=run_id, idempotency_key=None)
        runs.finish(run_id, Finish("finished", 0, None, data_uris=(f"s3://bucket/runs/{run_id}/1",)))

    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as clients:
        deque(clients.map(one, range(count)), maxlen=0)
    return count / (time.perf_counter() - started)


def fill(database: server_database.ServerDatabase, runs: RunStore, count: int, *, job: str | None = None) -> None:
    curve = [round(random.random(), 3) for _ in range(60)]
    sketch = {"average_cpu": 1.0, "peak_memory_mib": 900.0, "cpu": curve, "memory": curve}
    last = time.time()
    times = {"first_timestamp": last - 900, "last_timestamp": last}
    statistics = json.dumps({"row_count": 900, **times, "complete": True, "sketch": sketch})
    with database.transaction() as db:
        for number in range(count):
            metadata = _metadata() if job is None else {**_metadata(), "tags": {"job": job, "rank": str(number)}}
            run_id, now = new_run_id(), datetime.now(timezone.utc).isoformat(timespec="microseconds")
            inserted = db.conn.execute(
                "INSERT INTO runs (run_id, token_id, prefix, metadata, registered_at, finished_at, ended_at, run_status,"
                " data_source, data_uris, statistics) VALUES (?, 1, ?, ?, ?, ?, ?, 'finished', 's3', '[]', ?)",
                (run_id, f"runs/{run_id}", json.dumps(metadata), now, now, now, statistics),
            )
            runs.listing.add(db.conn, inserted.lastrowid)


def _metadata() -> dict[str, Any]:
    return {"job_name": f"job {random.randint(0, 5000)}", "project_name": f"project {random.randint(0, 40)}"}


def _queries(world: World, folder: Path) -> list[Figure]:
    count = world.pick(600_000, 30_000)
    path = recorded(folder / "spools", new_run(), Rows(), row_count=count, batch_rows=1)
    with closing(Spool(path)) as spool:
        spool.register(Registration("run", "s3://bucket/run"))
        for segment in spool.seal_pending():
            spool.mark_sent(segment, uri=f"s3://bucket/run/{segment.seq}", etag="etag")
    ask = median(_timed(lambda: streaming.runs(folder / "spools").query(SQL)) for _ in range(3))
    many = world.pick(1000, 50)
    for _ in range(many):
        recorded(folder / "many", new_run(), Rows(), row_count=60, batch_rows=60)
    alone = _timed(lambda: build(str(folder / "many"), folder / "lake-1"))
    together = _timed(lambda: build(str(folder / "many"), folder / "lake-2", workers=2))
    lake = streaming.runs(folder / "lake-1")
    ours = median(_timed(lambda: lake.query(SQL)) for _ in range(5))
    files = f"read_parquet('{folder}/lake-1/rows/*/*/*.parquet', hive_partitioning = true)"
    plain_sql = SQL.replace("rows", files).replace("runs", f"'{folder}/lake-1/runs.parquet'")
    plain = median(_timed(lambda: duckdb.sql(plain_sql).fetchall()) for _ in range(5))
    return [
        _figure("13", f"query over {count:,} rows in a spool", ask, 1.5),
        _figure("", f"query over {many:,} runs in a lake (plain DuckDB: {plain:.2f} s)", ours, max(1.0, plain * 1.3)),
        Figure(
            "14",
            f"lake of {many:,} runs: 1 process, 2",
            f"{alone:.1f} s, {together:.1f} s",
            "",
            f"{alone / together:.2f}",
            "",
            None,
            {"alone_s": alone, "together_s": together},
        ),
    ]


def _timed(action: Any) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _figure(row: str, what: str, taken_s: float, target_s: float) -> Figure:
    return Figure(
        row, what, f"{taken_s:.3f} s", "", "", f"at most {target_s:.2g} s", taken_s <= target_s, {"s": taken_s}
    )
