"""Questions in SQL about rows and runs, answered by DuckDB; it can read nothing else, and write nothing.

What a query may do: SELECT from `rows` and `runs`. DuckDB has no access to files, extensions or the network, its settings are
locked, Python's variables are out of its sight, and statements of other kinds are refused before they run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any

import pyarrow as pa

from streaming.errors import BadArgument
from streaming.read.sources import RunFacts, Source, runs_table
from streaming.tables.schema import KNOWN, merged

try:
    import duckdb
except ImportError as missing:
    raise BadArgument("queries need duckdb", hint="pip install 'tracker-stream[read]'") from missing

_RUN = "run"
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}
_LOCKED = ("SET enable_external_access = false", "SET lock_configuration = true")


class Query:
    """The tables `rows` and `runs` of these runs, to ask several questions of. Close it, or use it as a context manager."""

    def __init__(self, source: Source, facts: Sequence[RunFacts], *, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query")
        self._source = source
        self._facts = facts
        self._database = duckdb.connect(":memory:", config=_SETTINGS)
        self._database.register("runs", runs_table(facts))
        self._is_on_disk = self._show_files()
        for statement in _LOCKED:
            self._database.execute(statement)
        if not self._is_on_disk:
            self._schemas = {run.run: source.schema(run.run) for run in facts}
            known = [(name, column.type) for name, column in KNOWN.items()]
            self._schema = pa.schema([(_RUN, pa.string()), *merged([pa.schema(known), *self._schemas.values()])])

    def _show_files(self) -> bool:
        """Where DuckDB can read the rows itself, the folder that holds them is all that it may read."""
        folder, sql = self._source.rows_in_sql() or (None, "")
        if not sql:
            return False
        path = str(folder).replace("'", "''")
        self._database.execute(f"SET allowed_directories = ['{path}']")
        self._database.execute(f"CREATE VIEW rows AS {sql} SEMI JOIN runs USING (run)")
        return True

    def answer(self, sql: str) -> pa.RecordBatchReader:
        """Raises BadArgument for what is no question, or none that can be answered (in time: so may reading the answer)."""
        until = math.inf if self._timeout_s is None else time.monotonic() + self._timeout_s
        needed = self._wait_for(lambda: self._columns_needed(sql), until)
        if not self._is_on_disk:  # on this thread, which Ctrl-C ends at once
            self._database.register("rows", self._rows(needed, until))
        reader = self._wait_for(lambda: self._reader(sql), until)
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader, until))

    def _batches(self, reader: pa.RecordBatchReader, until: float) -> Iterator[pa.RecordBatch]:
        while (batch := self._wait_for(lambda: next(iter(reader), None), until)) is not None:
            yield batch

    def _wait_for(self, step: Callable[[], Any], until: float) -> Any:
        """What DuckDB does on a thread of its own: else neither Ctrl-C nor the time would end it."""
        done = self._thread.submit(step)
        try:
            return done.result(None if until == math.inf else max(0.0, until - time.monotonic()))
        except FutureTimeout:
            raise self._too_long() from None
        except (duckdb.Error, pa.ArrowException) as error:
            raise BadArgument(
                f"the query cannot be answered: {error}", hint="columns: tracker-stream query --help"
            ) from error
        finally:
            if not done.done():
                self._database.interrupt()

    def _too_long(self) -> BadArgument:
        return BadArgument(f"the query takes longer than {self._timeout_s:g} s", hint="give --timeout")

    def _columns_needed(self, sql: str) -> set[str]:
        self._require_question(sql)
        if self._is_on_disk:
            return set()
        self._database.register("rows", self._schema.empty_table())
        return self._columns_of(sql)

    def _reader(self, sql: str) -> pa.RecordBatchReader:
        relation = self._database.sql(sql)
        return getattr(relation, "to_arrow_reader", relation.fetch_arrow_reader)()

    def _require_question(self, sql: str) -> None:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise BadArgument("a query is one SELECT of the tables rows and runs")

    def _columns_of(self, sql: str) -> set[str]:
        """The columns that the plan reads: the others need not be read from where they lie."""
        plan = json.loads(self._database.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()[0][1])
        read = " ".join(json.dumps(scan, ensure_ascii=False) for step in plan for scan in _scans(step))
        return {name for name in self._schema.names if name in read}  # too many, where a name is a part of another

    def _rows(self, needed: set[str], until: float) -> pa.Table:
        tables = [self._schema.empty_table()]
        for run in self._facts:
            for table in self._read(run.run, needed):
                if time.monotonic() > until:
                    raise self._too_long()
                tables.append(self._whole(run.run, table))
        return pa.concat_tables(tables)

    def _read(self, name: str, needed: set[str]) -> Iterator[pa.Table]:
        own = self._schemas[name]
        chosen = [field for field in own if field.name in needed] or list(own)[:1]
        return self._source.tables(name, pa.schema(chosen))

    def _whole(self, name: str, table: pa.Table) -> pa.Table:
        """With all columns: one that was not read has nothing in it, and takes no room of its own."""
        count = table.num_rows
        zeros = pa.py_buffer(bytes(8 * (count + 1)))
        columns: list[Any] = [pa.repeat(name, count)]
        for field in list(self._schema)[1:]:
            if field.name in table.column_names:
                columns.append(table.column(field.name).cast(field.type))
            else:
                buffers = [zeros] * (3 if pa.types.is_string(field.type) else 2)
                columns.append(pa.Array.from_buffers(field.type, count, buffers, null_count=count))
        return pa.table(columns, schema=self._schema)

    def close(self) -> None:
        self._thread.shutdown()
        self._database.close()

    def __enter__(self) -> Query:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _scans(step: dict[str, Any]) -> Iterator[Any]:
    """What the plan says of each step that reads a table."""
    if "SCAN" in step["name"]:
        yield step["extra_info"]
    for child in step.get("children", ()):
        yield from _scans(child)
