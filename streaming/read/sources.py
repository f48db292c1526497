"""Where runs lie, and what a source tells of them: facts of each run, and its rows as typed Arrow tables."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from spool import RunState, SegmentState, Spool, directory, queries
from streaming import config
from streaming.errors import BadArgument
from streaming.read import names, status, typed_rows
from streaming.read.export.rows import RunRows

_MOMENT = pa.timestamp("us", tz="UTC")
RUN_COLUMNS = {
    "run": (pa.string(), "the run's name in its source; the same as in rows"),
    "job_name": (pa.string(), "as given"),
    "project_name": (pa.string(), "as given"),
    "stage_name": (pa.string(), "as given"),
    "task_name": (pa.string(), "as given"),
    "team": (pa.string(), "as given"),
    "host": (pa.string(), "where it ran, if that was told"),
    "external_run_id": (pa.string(), "the scheduler's id"),
    "state": (
        pa.string(),
        "recording, waiting, delivered, ...; of a server: registered, recording, silent, finished, failed",
    ),
    "exit_code": (pa.int64(), "of the command; null when unknown"),
    "started_at": (_MOMENT, "UTC"),
    "ended_at": (_MOMENT, "UTC; null while it goes on"),
    "duration_s": (pa.float64(), "seconds from start to end, or until now"),
    "row_count": (pa.int64(), "rows recorded"),
    "tags": (pa.string(), "JSON"),
    "metadata": (pa.string(), "JSON: all of it"),
}
_GIVEN = ("job_name", "project_name", "stage_name", "task_name", "team", "external_run_id")


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run without reading its rows. Times are seconds since the epoch."""

    run: str
    state: str
    started_at: float | None = None
    ended_at: float | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    row_count: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    objects: tuple[dict[str, Any], ...] = ()  # as the page lists them
    outcome: str = ""  # recording, finished, failed: how the run went, whatever became of its delivery
    is_finished: bool = False
    version: str = ""  # changes when there may be other rows

    def as_row(self) -> dict[str, Any]:
        """The columns of `RUN_COLUMNS`."""
        given = {name: _text(self.metadata.get(name)) for name in _GIVEN}
        own = {name: getattr(self, name) for name in ("run", "state", "duration_s", "exit_code", "row_count")}
        return {
            **given,
            **own,
            "host": _text(config.host_of(self.metadata)),
            "started_at": None if self.started_at is None else round(self.started_at * 1e6),
            "ended_at": None if self.ended_at is None else round(self.ended_at * 1e6),
            "tags": json.dumps(self.metadata["tags"]) if self.metadata.get("tags") else None,
            "metadata": json.dumps(self.metadata),
        }


def runs_table(facts: Collection[RunFacts]) -> pa.Table:
    """One row for each run."""
    schema = pa.schema([(name, kind) for name, (kind, _) in RUN_COLUMNS.items()])
    return pa.Table.from_pylist([run.as_row() for run in facts], schema)


class Source(ABC):
    """Runs and their rows. `name` of a run is `RunFacts.run`."""

    @abstractmethod
    def runs(self) -> list[RunFacts]:
        """All runs, oldest first."""

    @abstractmethod
    def schema(self, name: str) -> pa.Schema:
        """The columns of the run's rows."""

    @abstractmethod
    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        """The run's rows in order, each once, in the columns of `schema`."""

    def rows_in_sql(self) -> tuple[Path, str] | None:
        """A folder that DuckDB can read itself, and the SQL for the rows of all runs in it; None where there is none."""
        return None

    def find(self, text: str, among: Collection[RunFacts]) -> RunFacts:
        """The newest run whose name is or begins with `text`, or whose job is called so. Raises BadArgument."""
        for matches in (
            [run for run in among if text in (run.run, run.metadata.get("job_name"))],
            [run for run in among if run.run.startswith(text) or text == "latest"],
        ):
            if matches:
                return matches[-1]
        raise BadArgument(f"no run {text!r}", hint="see the list: streaming.runs()")


class SpoolSource(Source):
    """The runs of a spool directory. A run that goes on gives the rows that it had when it was asked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def runs(self) -> list[RunFacts]:
        return [_facts(summary) for summary in status.summaries(self._path)]

    def schema(self, name: str) -> pa.Schema:
        with closing(Spool(self._spool(name))) as spool:
            return typed_rows.schema_of(RunRows(spool))

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        with closing(Spool(self._spool(name))) as spool:
            yield from typed_rows.tables_of(RunRows(spool), schema)

    def find(self, text: str, among: Collection[RunFacts]) -> RunFacts:
        """As every command finds runs. Raises NoSuchRun."""
        stem = names.find_run(self._path, text).stem
        return next(run for run in among if run.run == stem)

    def _spool(self, name: str) -> Path:
        return self._path / f"{name}{directory.SUFFIX}"


def facts_of(path: Path) -> RunFacts:
    """Of the run of a spool."""
    return _facts(status.summarize(path))


def _facts(summary: status.Summary) -> RunFacts:
    run = summary.run
    return RunFacts(
        run=summary.name,
        state=summary.condition.value,
        started_at=run.started_at if run else None,
        ended_at=run.ended_at if run else None,
        duration_s=summary.duration_s(time.time()),
        exit_code=run.exit_code if run else None,
        row_count=summary.counts.recorded,
        metadata={**run.metadata, **(run.host_info or {}), **(run.cloud_info or {})} if run else {},
        objects=_objects(summary.path) if summary.counts.objects else (),
        outcome="" if run is None else "recording" if run.state is RunState.OPEN else run.run_status or "finished",
        is_finished=summary.is_finished,
    )


def _objects(path: Path) -> tuple[dict[str, Any], ...]:
    with closing(Spool(path)) as spool:
        sent = queries.segments(spool.connection, SegmentState.SENT)
    return tuple(
        {"key": it.uri or "", "seq": it.seq, "size_bytes": None, "row_count": it.row_count, "sha256": it.sha256}
        | {"digest_matches": None, "missing": False, "error": None}
        for it in sent
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
