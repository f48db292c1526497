"""`tracker-stream run`: track a command from its start to its end, and leave with its exit code."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import click

from spool import SpoolError, directory
from streaming import config
from streaming.command import CannotStart, Command
from streaming.errors import BadArgument
from streaming.recorder import Delivery, Recorder
from streaming.tracker import Plan, Tracking

log = logging.getLogger(__name__)


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--job-name", "-n", help="Name of the job.")
@click.option("--interval", "-i", default=1.0, show_default=True, help="Seconds between samples.")
@click.option("--upload-interval", default=60.0, show_default=True, help="Seconds between uploads.")
@click.option("--spool-dir", type=click.Path(file_okay=False, path_type=Path), help="Where the run is kept.")
@click.option("--quiet", "-q", is_flag=True, help="No lines of our own on stderr.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def run(
    job_name: str | None,
    interval: float,
    upload_interval: float,
    spool_dir: Path | None,
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Track COMMAND and leave with its exit code.

    Example: tracker-stream run --job-name train -- python train.py
    """
    logging.basicConfig(format="tracker-stream: %(message)s", level=logging.ERROR if quiet else logging.WARNING)
    plan = _plan(job_name, interval, upload_interval, spool_dir, command)
    recorder = _start_recorder(plan)
    try:
        running = Command(command)
    except CannotStart as error:
        click.echo(f"tracker-stream: {error.reason}", err=True)
        _close(recorder, error.exit_code)
        sys.exit(error.exit_code)
    if recorder is None:
        sys.exit(_wait(running))
    if not quiet:
        click.echo(f"tracker-stream: recording run {recorder.spool.path.stem}", err=True)
    sys.exit(_track(running, Tracking(recorder, running.pid, interval_s=plan.interval_s), quiet=quiet))


def _plan(
    job_name: str | None, interval: float, upload_interval: float, spool_dir: Path | None, command: tuple[str, ...]
) -> Plan:
    try:
        return Plan(
            spool_dir=(spool_dir or directory.default_directory()).absolute(),
            delivery=Delivery(
                token=config.token_from_environment(),
                api_url=config.api_url(),
                s3_endpoint_url=config.s3_endpoint_url(),
                upload_interval_s=max(1.0, upload_interval),
                linger_s=config.linger_s(),
            ),
            interval_s=interval,
            metadata={"job_name": job_name, "command": list(command)},
        )
    except BadArgument as error:
        raise click.UsageError(str(error)) from error


def _start_recorder(plan: Plan) -> Recorder | None:
    """Tracking must not keep the command from running: without a spool it runs untracked, and that is said."""
    import os

    try:
        return Recorder.start(plan.spool_dir, plan.new_run(os.getpid()), plan.delivery)
    except SpoolError as error:
        click.echo(f"tracker-stream: this run is NOT recorded: {error}", err=True)
        return None


def _wait(running: Command) -> int:
    while (exit_code := running.wait(3600.0)) is None:
        pass
    return exit_code


def _track(running: Command, tracking: Tracking, *, quiet: bool) -> int:
    while (exit_code := running.wait(max(0.0, tracking.next_at - time.monotonic()))) is None:
        tracking.tick()
    recorder = tracking.recorder
    tracking.end(exit_code=exit_code, run_status="finished" if exit_code == 0 else "failed")
    answer = recorder.wait_finished(config.STOP_TIMEOUT_S)
    if not quiet:
        state = "delivered" if answer is not None else recorder.waiting_text()
        click.echo(f"tracker-stream: {tracking.row_count} row(s) recorded, {state}", err=True)
    recorder.close()
    return exit_code


def _close(recorder: Recorder | None, exit_code: int) -> None:
    if recorder is not None:
        recorder.end(exit_code=exit_code, run_status="failed", ended_at=time.time())
        recorder.close()
