"""`tracker-stream lake build`: runs as a Parquet dataset."""

from __future__ import annotations

from pathlib import Path

import click

from streaming import config
from streaming.cli import options
from streaming.cli.terminal.screen import stderr
from streaming.read.quantity import rows as row_text


@click.group()
def lake() -> None:
    """Build a Parquet dataset of runs, for DuckDB, Polars, pandas, Dask or Spark.

    \b
    Example: tracker-stream lake build http://127.0.0.1:8742 /data/lake
    """


@lake.command()
@click.argument("source")
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes on this machine.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="A Dask scheduler, e.g. tcp://host:8786; its workers must see DEST."
)
@options.with_settings(config.DELIVERY[0])
def build(source: str, dest: Path, workers: int, scheduler: str | None, token_file: str | None) -> None:
    """Bring the dataset in DEST up to date with the runs of SOURCE.

    SOURCE is a server's address (http://...), s3://bucket/prefix, or a spool directory. Only runs whose rows have changed
    are read again. It may be killed at any moment and repeated: no row is then missing or doubled.

    \b
    Example: tracker-stream lake build http://127.0.0.1:8742 lake --workers 8
    Then:    tracker-stream query --from lake "SELECT count(*) FROM rows"
    """
    from streaming.read.lake import build as bring_up_to_date

    token = config.find_token(token_file)
    row_counts: list[int] = []
    count = bring_up_to_date(
        source,
        dest.absolute(),
        token=token.text if token else None,
        workers=workers,
        scheduler=scheduler,
        on_built=lambda facts: row_counts.append(facts.row_count or 0),
    )
    stderr().say(f"tracker-stream: {count} runs with {row_text(sum(row_counts))} written to {dest}")
