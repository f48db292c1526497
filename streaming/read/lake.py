"""A lake: runs as a Parquet dataset that DuckDB, Polars, pandas, Dask, Spark and Athena read without us.

    DEST/runs.parquet                                   one row for each run
    DEST/rows/project=P/day=YYYY-MM-DD/RUN.parquet      the run's rows of that day (UTC)

Invariants:
- Every file has the same columns: `run`, the 32 known ones, and `other`, the rest of a row as JSON.
- A run's rows of a day are one file, named by both, which appears whole: building a run again, here or on any worker, gives
  the same files. So a build may be killed anywhere and repeated: no row is missing, none is there twice.
- `runs.parquet` names a run, with the version of it that was read, only when all its files are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from spool.whole_files import replacing
from streaming.errors import BadArgument
from streaming.read.lake_source import NO_DAY, NO_PROJECT, ROWS_FOLDER, RUNS_FILE, SCHEMA, files_of, noted_runs, seconds
from streaming.read.runs import open_source
from streaming.read.sources import RunFacts, Source, runs_table
from streaming.tables import parquet_file
from streaming.tables.schema import KNOWN, TIMESTAMP

_NOTED_EVERY = 100  # runs: how many may be built again after a kill


def build(
    source: str | None,
    lake: Path,
    *,
    token: str | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    on_built: Callable[[RunFacts], None] = lambda _facts: None,
) -> int:
    """Bring the lake up to date with a source (see `streaming.runs`, and `s3://...`). How many runs were built.

    By so many processes, or on a Dask cluster whose workers see the same directory.
    """
    noted = noted_runs(lake)
    (lake / ROWS_FOLDER).mkdir(parents=True, exist_ok=True)
    found = [replace(facts, version=version_of(facts)) for facts in open_source(source, token=token).runs()]
    due = [facts for facts in found if facts.run not in noted or noted[facts.run].version != facts.version]
    orders = [(source, token, str(lake), facts) for facts in due]
    for count, facts in enumerate(_on_cluster(orders, scheduler) if scheduler else _on_processes(orders, workers), 1):
        noted[facts.run] = facts
        on_built(facts)
        if count % _NOTED_EVERY == 0:
            _note(lake, noted.values())
    _note(lake, noted.values())
    return len(due)


Order = tuple[str | None, str | None, str, RunFacts]


def build_run(order: Order) -> RunFacts:
    """Write the files of one run, on whichever machine; its facts, with what its rows tell. Killed anywhere: do it again."""
    source, token, lake, facts = order
    opened = open_source(source, token=token)
    table = pa.concat_tables([SCHEMA.empty_table(), *_lake_tables(opened, facts.run)])
    project = _partition("project", facts.metadata.get("project_name") or NO_PROJECT)
    written = set()
    for day, rows in _days(table):
        path = Path(
            lake, ROWS_FOLDER, project, _partition("day", day or NO_DAY), f"{quote(facts.run, safe='')}.parquet"
        )
        _write(path, rows)
        written.add(path)
    for path in files_of(Path(lake), facts.run):
        if path not in written:  # of a version of the run before
            path.unlink(missing_ok=True)
    times = pc.min_max(table.column(TIMESTAMP)).as_py()
    started = facts.started_at if facts.started_at is not None else seconds(times["min"])
    return replace(facts, row_count=table.num_rows, started_at=started, objects=())


def _on_processes(orders: Sequence[Order], workers: int) -> Iterator[RunFacts]:
    if workers <= 1 or len(orders) <= 1:
        yield from map(build_run, orders)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(build_run, order) for order in orders]):
            yield done.result()


def _on_cluster(orders: Sequence[Order], scheduler: str) -> Iterator[RunFacts]:
    """A run whose worker is lost is built by another."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError as missing:
        raise BadArgument("--scheduler needs Dask", hint="pip install 'tracker-stream[lake]'") from missing
    with distributed.Client(scheduler, set_as_default=False) as client, client.as_current():
        futures = client.map(build_run, orders, pure=False, retries=3)
        for future in distributed.as_completed(futures):
            yield future.result()


def version_of(facts: RunFacts) -> str:
    """What changes when a run may have other rows."""
    return facts.version or f"{facts.state} {facts.row_count} {facts.ended_at}"


def _lake_tables(source: Source, name: str) -> Iterator[pa.Table]:
    schema = source.schema(name)
    unknown = [field.name for field in schema if field.name not in KNOWN]
    for table in source.tables(name, schema):
        columns = [
            table.column(field.name) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
            for field in list(SCHEMA)[1:-1]
        ]
        others = table.select(unknown).to_pylist() if unknown else [{}] * table.num_rows
        texts = [json.dumps(row, ensure_ascii=False) if row else None for row in others]
        yield pa.table([pa.repeat(name, table.num_rows), *columns, pa.array(texts, pa.string())], schema=SCHEMA)


def _days(table: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    """The rows of each day, in their order."""
    days = pc.strftime(table.column(TIMESTAMP), "%Y-%m-%d")
    for day in pc.unique(days).to_pylist():
        yield day, table.filter(pc.is_null(days) if day is None else pc.fill_null(pc.equal(days, day), False))


def _write(path: Path, rows: pa.Table) -> None:
    """Another worker that writes the same at the same time writes the same bytes' worth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, is_durable=True) as file:
        parquet_file.write(file, rows.schema, [rows])


def _partition(name: str, value: object) -> str:
    return f"{name}={quote(str(value), safe=' ()')}"


def _note(lake: Path, facts: Iterable[RunFacts]) -> None:
    every = sorted(facts, key=lambda run: (run.started_at or 0.0, run.run))
    versions = pa.array([run.version for run in every], pa.string())
    _write(lake / RUNS_FILE, runs_table(every).append_column("version", versions))
