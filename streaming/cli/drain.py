"""`tracker-stream drain`: deliver what waits in the spool directory."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from spool import RunState, Spool, SpoolError, directory
from streaming import config
from streaming.clients import Clients
from streaming.drain import Outcome, drain_run
from streaming.errors import StreamError
from streaming.watch import Watch


@click.command()
@click.option("--spool-dir", type=click.Path(file_okay=False, path_type=Path), help="Where the runs are kept.")
@click.option("--timeout", type=float, default=None, help="Give up after this many seconds.")
@click.option("--ended", is_flag=True, help="The runs' trackers are gone, also those on other machines.")
@click.option("--anew", is_flag=True, help="Register parked runs again; try rejected segments again.")
@click.argument("runs", nargs=-1)
def drain(spool_dir: Path | None, timeout: float | None, ended: bool, anew: bool, runs: tuple[str, ...]) -> None:
    """Deliver RUNS, or every run that waits.

    Example: tracker-stream drain
    """
    logging.basicConfig(format="tracker-stream: %(message)s", level=logging.WARNING)
    in_directory = spool_dir or directory.default_directory()
    token = config.token_from_environment()
    if token is None:
        raise click.UsageError(f"no token: set {config.TOKEN} or {config.TOKEN_FILE}")
    api_url = config.api_url()
    clients = Clients.connect(token, api_url=api_url, s3_endpoint_url=config.s3_endpoint_url())
    watch = Watch(orders=None, tracker=None)
    if timeout is not None:
        watch.limit(timeout)
    codes = [0]
    for path in [directory.find_spool(in_directory, name) for name in runs] or _waiting(in_directory):
        try:
            outcome = drain_run(
                path, clients, watch, api_url=api_url, has_ended=ended, anew=anew, waits_for_token=False
            )
            click.echo(f"{path.stem} {outcome.value}")
            codes.append({Outcome.WAITING: 3, Outcome.PARKED: 1, Outcome.TOKEN_REFUSED: 4}.get(outcome, 0))
        except (SpoolError, StreamError) as error:
            click.echo(f"{path.stem}: {error}", err=True)
            codes.append(1)
    sys.exit(max(codes))


def _waiting(in_directory: Path) -> list[Path]:
    paths = []
    for path in directory.spool_paths(in_directory):
        spool = Spool(path)
        if spool.run().state is not RunState.FINISHED:
            paths.append(path)
        spool.close()
    return paths
