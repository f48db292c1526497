"""How a lake is laid out, and reading it; `lake` writes it."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import parquet

from streaming.read.sources import RunFacts, Source
from streaming.tables.schema import KNOWN

RUNS_FILE, ROWS_FOLDER = "runs.parquet", "rows"
SCHEMA = pa.schema([("run", pa.string()), *((name, it.type) for name, it in KNOWN.items()), ("other", pa.string())])
NO_PROJECT, NO_DAY = "(none)", "1970-01-01"  # readers differ in what they take for null


class LakeSource(Source):
    """The runs of a lake."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[RunFacts]:
        return list(noted_runs(self.path).values())

    def schema(self, name: str) -> pa.Schema:  # noqa: ARG002 - the same for all
        return pa.schema([field for field in SCHEMA if field.name != "run"])

    def rows_in_sql(self) -> tuple[Path, str]:
        """Where every file of rows lies, and what a query calls rows."""
        folder = self.path / ROWS_FOLDER
        pattern = str(folder / "*" / "*" / "*.parquet").replace("'", "''")
        if next(folder.glob("*/*/*.parquet"), None) is None:
            return folder, ""
        return folder, f"SELECT * FROM read_parquet('{pattern}', hive_partitioning = true)"  # noqa: S608 - quoted

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        for path in sorted(files_of(self.path, name), key=lambda path: path.parent.name):
            with parquet.ParquetFile(path) as file:
                yield file.read(schema.names)


def files_of(lake: Path, run: str) -> list[Path]:
    return list((lake / ROWS_FOLDER).glob(f"*/*/{glob.escape(quote(run, safe=''))}.parquet"))


def noted_runs(lake: Path) -> dict[str, RunFacts]:
    if not (lake / RUNS_FILE).exists():
        return {}
    return {row["run"]: _facts(row) for row in parquet.read_table(lake / RUNS_FILE).to_pylist()}


def _facts(row: dict[str, Any]) -> RunFacts:
    own = {name: row[name] for name in ("run", "state", "duration_s", "exit_code", "row_count", "version")}
    started, ended = seconds(row["started_at"]), seconds(row["ended_at"])
    return RunFacts(**own, started_at=started, ended_at=ended, metadata=json.loads(row["metadata"]))


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
