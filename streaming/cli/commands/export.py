"""`tracker-stream export`: every row of runs, as CSV, JSON lines or Parquet; or a run's charts, as one HTML page."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path

import click

from spool import Spool
from streaming.cli import Mistake, options
from streaming.cli.output import STDOUT, opened
from streaming.cli.terminal.screen import stderr
from streaming.config import SPOOL_DIR
from streaming.read import export as formats
from streaming.read.export.rows import JoinedRows, MissingRows, RunRows
from streaming.read.names import find_runs
from streaming.read.quantity import rows as row_text

INCOMPLETE = 1


@click.command()
@click.argument("run", nargs=-1, required=True, shell_complete=options.complete_run)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file, - for stdout, or a directory for one file per run. [default: stdout]",
)
@click.option(
    "--format", "-f", "form", type=click.Choice(list(formats.FORMATS)), help="[default: by FILE's name, else csv]"
)
@click.option("--follow", is_flag=True, help="Keep writing new rows until the run ends (csv, jsonl).")
@options.with_settings(SPOOL_DIR)
def export(run: tuple[str, ...], output: Path | None, form: str | None, follow: bool, spool_dir: Path) -> None:
    """Write every row of each RUN that its spool holds, also after its delivery.

    In one file with several runs, the first column is the run's name. Where the header changed within a run, CSV and
    Parquet have the columns of all its headers. HTML is one self-contained page with a run's charts. Exit code 1 if rows are
    missing: damaged, or removed from a full disk after S3 had stored them.

    \b
    Example: tracker-stream export 3f2a9c01 -o run.parquet
    """
    output = None if output == STDOUT else output
    form = form or _form_of(output)
    paths = find_runs(spool_dir, run)
    if output is None and not formats.is_text(form) and sys.stdout.isatty():
        raise Mistake(f"{form} is not for a terminal: give a file with -o FILE")
    if follow:
        return _follow(paths, output, form)
    if output is not None and output.is_dir():
        gaps = [_write([path], output / f"{path.stem}.{form}", form) for path in paths]
    elif form == "html" and len(paths) > 1:
        raise Mistake(f"{len(paths)} runs make {len(paths)} pages: give a directory with -o DIR")
    else:
        gaps = [_write(paths, output, form)]
    sys.exit(INCOMPLETE if any(gap.damaged or gap.released for gap in gaps) else 0)


def _write(paths: list[Path], output: Path | None, form: str) -> MissingRows:
    """The rows of these runs into one file; tells how many there were, and what is missing."""
    write = formats.writer(form)
    with ExitStack() as spools:
        every = [RunRows(spools.enter_context(closing(Spool(path)))) for path in paths]
        rows = every[0] if len(every) == 1 else JoinedRows(every)
        with opened(output) as out:
            write(rows, out)
        gap = rows.gap()
    screen = stderr()
    if output is not None:
        what = f"run {paths[0].stem}" if len(paths) == 1 else f"{len(paths)} runs"
        screen.say(f"tracker-stream: {row_text(rows.row_count)} of {what} written to {output}")
    if gap.damaged:
        screen.say(f"tracker-stream: {row_text(gap.damaged)} are damaged and were left out")
    if gap.released:
        screen.say(
            f"tracker-stream: {row_text(gap.released)} are in S3 only: they were released when the disk was full"
        )
    return gap


def _follow(paths: list[Path], output: Path | None, form: str) -> None:
    if form not in formats.FOLLOWED or len(paths) > 1:
        raise Mistake("--follow is for one run, as csv or jsonl")
    with closing(Spool(paths[0])) as spool, opened(output, grows=True) as out:
        for part in formats.followed(RunRows(spool), form):
            out.write(part)
            out.flush()


def _form_of(output: Path | None) -> str:
    suffix = output.suffix.lstrip(".").lower() if output else ""
    return suffix if suffix in formats.FORMATS else "csv"
