"""`streaming.runs()`: runs and their rows, from a spool directory, a server, or a lake.

for run in streaming.runs():
    print(run.job_name, run.state, run.summary()["process_memory_mib"])
streaming.runs()["train"].to_pandas()
streaming.runs("http://127.0.0.1:8742", token=...).where(project_name="x").query("SELECT ... FROM rows JOIN runs USING (run)")
"""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, overload

from spool import directory
from streaming.errors import BadArgument

try:
    import pyarrow as pa

    from streaming.read.lake_source import RUNS_FILE, LakeSource
    from streaming.read.remote import ServerSource
    from streaming.read.sources import RunFacts, Source, SpoolSource, runs_table
    from streaming.tables.figures import figures_of, numbers
except ImportError as missing:
    raise BadArgument("reading rows needs pyarrow and numpy", hint="pip install 'tracker-stream[read]'") from missing

if TYPE_CHECKING:
    import pandas

_SHOWN_MAX = 50
_SHOWN = ("run", "job_name", "project_name", "state", "started_at", "duration_s", "exit_code", "row_count")


class RecordedRun:
    """One run. Its rows are read when they are asked for, as they are at that moment."""

    def __init__(self, source: Source, facts: RunFacts) -> None:
        self._source = source
        self.facts = facts

    @property
    def name(self) -> str:
        """The run's name in its source."""
        return self.facts.run

    @property
    def job_name(self) -> str | None:
        return self.facts.metadata.get("job_name")

    @property
    def state(self) -> str:
        return self.facts.state

    @property
    def metadata(self) -> dict[str, Any]:
        return self.facts.metadata

    def table(self, columns: Collection[str] | None = None) -> pa.Table:
        """All rows in order, each once, typed as `streaming.tables.schema` says; only these columns, if any are named."""
        schema = self._source.schema(self.name)
        if columns is not None:
            unknown = [name for name in columns if name not in schema.names]
            if unknown:
                raise BadArgument(f"the run has no column {unknown[0]!r}", hint=f"it has: {', '.join(schema.names)}")
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self._source.tables(self.name, schema)]).combine_chunks()

    def to_pandas(self, columns: Collection[str] | None = None) -> pandas.DataFrame:
        """The same as a data frame (pandas is not installed with the extra `read`)."""
        return self.table(columns).to_pandas()

    def summary(self) -> dict[str, Any]:
        """Row count, times, average and peak of what is measured, totals of what is counted."""
        table = self.table()
        return figures_of(table.num_rows, lambda name: numbers(table, name))

    def to_html(self) -> str:
        """The run's charts as one page that needs nothing else."""
        from streaming.read.export.html import page

        return page(self.facts, self.table())

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 48em; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.to_html())}"></iframe>'

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.job_name or ''} {self.state}, {self.facts.row_count} rows>"


class Runs(Sequence[RecordedRun]):
    """Runs of one source, oldest first. Taken when it was made: ask `streaming.runs` again for newer ones."""

    def __init__(self, source: Source, facts: Sequence[RunFacts]) -> None:
        self.source = source
        self.facts = list(facts)

    def where(self, **values: Any) -> Runs:
        """Those whose facts or metadata have these values, e.g. `job_name="train"`, `state="delivered"`."""
        return Runs(self.source, [run for run in self.facts if _matches(run.as_row(), run.metadata, values)])

    def table(self) -> pa.Table:
        """One row for each run."""
        return runs_table(self.facts)

    def to_pandas(self) -> pandas.DataFrame:
        return self.table().to_pandas()

    def query(self, sql: str) -> pa.Table:
        """What DuckDB answers of the tables `rows` and `runs`; see `tracker-stream query --help`."""
        from streaming.read.query import Query

        with Query(self.source, self.facts) as query:
            return query.answer(sql).read_all()

    @overload
    def __getitem__(self, key: int | str) -> RecordedRun: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | str | slice) -> RecordedRun | Runs:
        """By place, or by name: a run's or its job's, or the beginning of a run's. Raises BadArgument, NoSuchRun."""
        if isinstance(key, slice):
            return Runs(self.source, self.facts[key])
        return RecordedRun(self.source, self.facts[key] if isinstance(key, int) else self.source.find(key, self.facts))

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[RecordedRun]:
        return (RecordedRun(self.source, facts) for facts in self.facts)

    def __repr__(self) -> str:
        return f"<{len(self.facts)} runs>"

    def _repr_html_(self) -> str:
        lines = [_cells("th", _SHOWN)]
        for facts in self.facts[: -_SHOWN_MAX - 1 : -1]:
            lines.append(_cells("td", [_shown(facts, name) for name in _SHOWN]))
        return f"<table>{''.join(lines)}</table><p>{len(self.facts)} runs</p>"


def runs(source: str | os.PathLike[str] | None = None, *, token: str | None = None) -> Runs:
    """The runs of a spool directory, of a server (`http://...`), or of a lake.

    The default is where `track` and `StreamingManager` keep them: TRACKER_STREAM_DIR, else the user's state directory. The
    settings file is the command's: where it names another place, name it here, too.

    Raises BadArgument for what is none of these, and what stands in the way of reading it.
    """
    found = open_source(source, token=token)
    return Runs(found, found.runs())


def open_source(source: str | os.PathLike[str] | None, *, token: str | None = None) -> Source:
    """None: the user's own spool directory. Raises BadArgument for what is no source."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return ServerSource(source, token)
    if isinstance(source, str) and source.startswith("s3://"):
        from streaming.read.bucket import BucketSource

        return BucketSource(source)
    path = directory.chosen(source)
    if source is not None and not path.is_dir():
        raise BadArgument(f"{path} is not a directory", hint="give a spool directory, a server's address, or a lake")
    return LakeSource(path) if (path / RUNS_FILE).is_file() else SpoolSource(path)


def _matches(row: dict[str, Any], metadata: dict[str, Any], values: dict[str, Any]) -> bool:
    return all({**metadata, **row}.get(name) == value for name, value in values.items())


def _cells(kind: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(text)}</{kind}>' for text in texts)}</tr>"


def _shown(facts: RunFacts, name: str) -> str:
    value = facts.as_row()[name]
    if value is None:
        return ""
    if name == "started_at":
        return datetime.fromtimestamp(value / 1e6, timezone.utc).isoformat(" ", "seconds")
    return f"{value:.1f}" if isinstance(value, float) else str(value)
