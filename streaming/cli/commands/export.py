"""`tracker-stream export`: every row of a run, as CSV, JSON lines or Parquet; or its charts, as one HTML page."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import click

from spool import Spool
from streaming.cli import Mistake, options
from streaming.cli.terminal.quantity import rows as row_text
from streaming.cli.terminal.screen import stderr
from streaming.read import export as formats
from streaming.read.export.rows import RunRows
from streaming.read.names import find_run

INCOMPLETE = 1


@click.command()
@click.argument("run", shell_complete=options.complete_run)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="[default: stdout]"
)
@click.option(
    "--format", "-f", "form", type=click.Choice(list(formats.FORMATS)), help="[default: by FILE's name, else csv]"
)
@click.option("--spool-dir", envvar="TRACKER_STREAM_DIR", show_envvar=True, metavar="DIR", help="Where runs are kept.")
def export(run: str, output: Path | None, form: str | None, spool_dir: str | None) -> None:
    """Write every row of RUN that its spool holds, also after its delivery.

    Where the header changed within the run, CSV and Parquet have the columns of all its headers. Exit code 1 if rows are
    missing: damaged ones, or such that were released on a full disk after S3 had them. HTML is one self-contained page with
    the run's charts.

    \b
    Example: tracker-stream export 3f2a9c01 -o run.parquet
    """
    form = form or _form_of(output)
    write = formats.writer(form)
    if output is None and not formats.is_text(form) and sys.stdout.isatty():
        raise Mistake(f"{form} is not for a terminal: give a file with -o FILE")
    with closing(Spool(find_run(options.spool_directory(spool_dir), run))) as spool:
        rows = _CountedRows(spool)
        with _opened(output) as out:
            write(rows, out)
        gap = rows.gap(rows.row_count)
    screen = stderr()
    if output is not None:
        screen.say(f"tracker-stream: {row_text(rows.row_count)} of run {spool.path.stem} written to {output}")
    if gap.damaged:
        screen.say(f"tracker-stream: {row_text(gap.damaged)} are damaged and were left out")
    if gap.released:
        screen.say(
            f"tracker-stream: {row_text(gap.released)} are in S3 only: they were released when the disk was full"
        )
    sys.exit(INCOMPLETE if gap.damaged or gap.released else 0)


def _form_of(output: Path | None) -> str:
    suffix = output.suffix.lstrip(".").lower() if output else ""
    return suffix if suffix in formats.FORMATS else "csv"


class _CountedRows(RunRows):
    """Counts the rows of the latest pass."""

    row_count = 0

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        self.row_count = 0
        for header, lines in super().batches():
            self.row_count += lines.count(b"\n")
            yield header, lines


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Stdout, or a file that appears whole or not at all. A device or a pipe is written to, never replaced."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with open(output, "wb") if output.exists() and not output.is_file() else _replacing(output.resolve()) as file:
            yield file
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror})") from error


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    unfinished = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        with open(unfinished, "wb") as file:
            yield file
        os.replace(unfinished, output)
    finally:
        with suppress(OSError):
            unfinished.unlink()
