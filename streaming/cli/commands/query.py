"""`tracker-stream query`: SQL over rows and runs, of a spool directory, a server or a lake."""

from __future__ import annotations

import csv
import io
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from streaming import config
from streaming.cli import Mistake, options
from streaming.cli.output import opened
from streaming.cli.terminal.screen import stdout
from streaming.cli.terminal.table import Column, clean, lay_out
from streaming.read import runs as reading

TABLE_MAX_ROWS = 10_000  # all are in memory before the first is shown
FORMATS = ("table", "csv", "json", "parquet")


class _WithColumns(click.Command):
    """Its help ends with the tables, column by column."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from streaming.read.sources import RUN_COLUMNS
        from streaming.tables.schema import KNOWN

        with formatter.section("Table runs: one row for each run"):
            formatter.write_dl([(name, f"{_type(kind)}; {text}") for name, (kind, text) in RUN_COLUMNS.items()])
        with formatter.section("Table rows: run, and the columns of the rows"):
            formatter.write_dl([("run", "text; the same as in runs")])
            formatter.write_dl(
                [(it.name, f"{_type(it.type)}, {it.unit or 'a number'}; {it.meaning}") for it in KNOWN.values()]
            )
            formatter.write_text(
                "Any other column is whole numbers, numbers or text, by all its cells; text stays text. What is no"
                " number in one of these is null here (an export keeps it)."
            )


def _type(kind: Any) -> str:
    return {"string": "text", "int64": "whole", "double": "number"}.get(str(kind), "timestamp")


@click.command(cls=_WithColumns)
@click.argument("sql")
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="A spool directory, a server's address (http://...) or a lake. [default: --spool-dir]",
)
@click.option("--format", "-f", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="[default: stdout]"
)
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=3600.0, show_default=True, help="Seconds for the answer."
)
@options.with_settings(config.SPOOL_DIR, config.DELIVERY[0])
def query(
    sql: str,
    source: str | None,
    form: str,
    output: Path | None,
    timeout: float,
    spool_dir: Path,
    token_file: str | None,
) -> None:
    """Run one SELECT, in DuckDB's SQL, on the tables `rows` and `runs`.

    A query can read nothing else and write nothing: it has no access to files, extensions or the network.

    \b
    Example: tracker-stream query "SELECT run, max(process_memory_mib)
             FROM rows GROUP BY run"
    """
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise Mistake("parquet is not for a terminal: give a file with -o FILE")
    from streaming.read.query import Query
    from streaming.read.sources import SpoolSource

    token = config.find_token(token_file)
    place = reading.open_source(source, token=token.text if token else None) if source else SpoolSource(spool_dir)
    with Query(place, place.runs(), timeout_s=timeout) as asked:
        answer = asked.answer(sql)
        if form == "table" and output is None:
            return _print_table(answer)
        with opened(output) as out:
            _WRITERS[form](answer, out)
    return None


def _print_table(answer: Any) -> None:
    screen = stdout()
    columns = [Column(clean(field.name), align_right=str(field.type) != "string") for field in answer.schema]
    each = (list(row.values()) for batch in answer for row in batch.to_pylist())
    rows = [[("" if value is None else _shown(value), "") for value in row] for row in islice(each, TABLE_MAX_ROWS)]
    screen.write(lay_out(columns, rows, width=None))
    if next(each, None) is not None:
        click.echo(f"only the first {TABLE_MAX_ROWS:,} rows are shown: --format csv has all of them", err=True)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(value)


def _write_csv(answer: Any, out: BinaryIO) -> None:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.schema.names)
    for batch in answer:
        writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    text.detach()


def _write_json(answer: Any, out: BinaryIO) -> None:
    """One object a line."""
    for batch in answer:
        for row in batch.to_pylist():
            out.write(json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _write_parquet(answer: Any, out: BinaryIO) -> None:
    from streaming.tables import parquet_file

    parquet_file.write_reader(out, answer)


_WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet, "table": _write_csv}
