"""`--help` on every level, completion, and what is loaded for it."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from streaming.cli import main
from tests.streaming.cli.conftest import AsProgram, InProcess


def levels(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, by the words that call it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from levels(found, (*path, name))


@pytest.mark.parametrize("path", list(levels(main)), ids=lambda path: " ".join(path) or "tracker-stream")
def test_help_has_an_example_and_fits_80_columns(cli: InProcess, path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize("flag", ["--token", "--api-token", "--api-key"])
def test_no_flag_takes_a_token(cli: InProcess, flag: str) -> None:
    for command in ("run", "attach", "drain", "doctor"):
        result = cli(command, flag, "x")
        assert result.exit_code == 2
        assert "No such option" in result.stderr


def test_help_loads_no_command_and_nothing_heavy(program: AsProgram) -> None:
    script = (
        "import sys\nfrom streaming.cli import main\n"
        "try:\n    main(['--help'], prog_name='tracker-stream')\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=program.environment, capture_output=True, check=True, timeout=60
    )
    loaded = set(done.stderr.decode().split())
    assert not loaded & {
        "boto3",
        "requests",
        "rich",
        "sqlite3",
        "sqlite_utils",
        "resource_tracker",
        "spool",
        "tenacity",
    }
    assert not {name for name in loaded if name.startswith("streaming.cli.")}


def test_status_and_the_parent_of_a_drain_load_no_network_library(program: AsProgram) -> None:
    script = """
import sys
from streaming.cli.commands import run, status
from streaming.cli.drain import command
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=program.environment, capture_output=True, check=True, timeout=60
    )
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"boto3", "botocore", "requests", "rich", "sqlite_utils", "resource_tracker"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_as_click_gives_it(program: AsProgram, shell: str) -> None:
    script = "from streaming.cli import main; main(prog_name='tracker-stream')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**program.environment, "_TRACKER_STREAM_COMPLETE": f"{shell}_source"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert b"tracker-stream" in done.stdout


def test_unknown_command_is_a_usage_error(cli: InProcess) -> None:
    assert cli("stauts").exit_code == 2


def test_version_is_told(cli: InProcess) -> None:
    assert "tracker-stream" in cli("--version").stdout
