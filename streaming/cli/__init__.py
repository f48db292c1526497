"""The command `tracker-stream`: one file per subcommand, loaded when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from typing import Any, NoReturn

import click

INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Name: where it is, what `--help` says of it (so that help loads none of them).
_COMMANDS = {
    "run": ("streaming.cli.commands.run:run", "Track a command and leave with its exit code."),
    "attach": ("streaming.cli.commands.attach:attach", "Track a process that is already running."),
    "status": ("streaming.cli.commands.status:status", "Show which runs are recorded, delivered or waiting, and why."),
    "drain": ("streaming.cli.drain.command:drain", "Deliver the runs that are waiting."),
    "uploader": (
        "streaming.cli.commands.uploader:uploader",
        "Show or stop the process that delivers in the background.",
    ),
    "export": ("streaming.cli.commands.export:export", "Write the rows of a run as CSV, JSON lines or Parquet."),
    "advise": ("streaming.cli.commands.advise:advise_command", "Show what jobs used, and what to request next time."),
    "query": ("streaming.cli.commands.query:query", "Query runs and their rows in SQL."),
    "lake": ("streaming.cli.commands.lake:lake", "Build a Parquet dataset of runs."),
    "clean": ("streaming.cli.commands.clean:clean", "Remove delivered runs past their retention."),
    "doctor": ("streaming.cli.commands.doctor:doctor", "Check that this machine can record and deliver."),
    "server": ("streaming.cli.commands.server:server", "Run a service of your own on this machine."),
}
_ALIASES = {"sync": "drain"}


class Mistake(click.ClickException):
    """What the caller can correct in the command or its settings."""

    exit_code = 2


class LazyGroup(click.Group):
    """Imports a subcommand only when it is needed, and turns the errors of this project into words and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks must not end the program
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):
            raise
        except Exception as error:
            known = _in_words(error)
            if known is None:
                raise
            raise known from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click has it; a disk that is full below stdout is one line, also where click writes by itself."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None or error.errno not in _NO_ROOM:
                raise
            click.ClickException(f"the output cannot be written ({error.strerror})").show()
            sys.exit(1)
        finally:
            _leave_nothing_unwritten()


def _leave_nothing_unwritten() -> None:
    """What a full disk did not take of stdout must not be tried again when the interpreter ends, with a traceback."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: Exception) -> click.ClickException | None:
    """An error of ours as click tells it: exit code 2 for what the caller can correct in the command, else 1.

    Its text may quote a spool or a service: nothing in it reaches the terminal that the terminal would obey.
    """
    from spool.errors import DirectoryUnusable, SpoolError, SpoolRefused
    from streaming.cli.terminal.table import clean
    from streaming.errors import BadArgument, StreamError

    if not isinstance(error, SpoolError | StreamError):
        return None
    is_usage = isinstance(error, BadArgument | SpoolRefused | DirectoryUnusable)
    return Mistake(clean(error)) if is_usage else click.ClickException(clean(error))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: tracker-stream run --job-name train -- python train.py",
)
@click.version_option(package_name="tracker-stream")
def main(**_: Any) -> None:
    """Record the resources of long jobs, and deliver every row to the Sentinel API and S3."""


def command_line() -> NoReturn:
    """The command as a whole process. `run` stands around every job: it leaves without tearing the interpreter down,
    which would take as long as a fifth of its imports, and waits for no thread that hangs."""
    try:
        main(prog_name="tracker-stream")
    except SystemExit as leaving:
        if sys.argv[1:2] == ["run"] and isinstance(leaving.code, int):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.flush()
            os._exit(leaving.code)
        raise
    sys.exit()
