"""`run` as a wrapper: what the command does and leaves is what it would do and leave alone, or under coreutils' `env`."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from spool import RunState, Spool, directory
from spool.errors import SpoolRefused
from tests.streaming.cli.conftest import AsProgram
from tests.support.processes import Home, eventually, kill, start_program

RUN = ("run", "-q", "-i", "0.1", "--")
FORWARDED = {"HUP": signal.SIGHUP, "INT": signal.SIGINT, "TERM": signal.SIGTERM}


def shell_code(return_code: int) -> int:
    return 128 - return_code if return_code < 0 else return_code


def alone(*command: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["env", *command], input=stdin, capture_output=True, timeout=60, check=False)


def ending(home: Home) -> tuple[RunState, int | None, str | None]:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        run = spool.run()
        return run.state, run.exit_code, run.run_status


ENDINGS = {
    "exit 0": 0,
    "exit 1": 1,
    "exit 42": 42,
    "kill -HUP $$": 129,
    "kill -INT $$": 130,
    "kill -KILL $$": 137,
    "kill -TERM $$": 143,
}


@pytest.mark.parametrize(("script", "code"), ENDINGS.items())
def test_exit_code_is_the_commands(home: Home, program: AsProgram, script: str, code: int) -> None:
    assert shell_code(alone("sh", "-c", script).returncode) == code
    assert program(*RUN, "sh", "-c", script).exit_code == code
    assert ending(home) == (RunState.ENDED, code, "finished" if code == 0 else "failed")


@pytest.mark.parametrize(("kind", "code"), [("missing", 127), ("not executable", 126), ("a directory", 126)])
def test_command_that_cannot_be_started(home: Home, program: AsProgram, tmp_path: Path, kind: str, code: int) -> None:
    (tmp_path / "plain").write_text("text")
    command = {
        "missing": "no-such-command-anywhere",
        "not executable": str(tmp_path / "plain"),
        "a directory": str(tmp_path),
    }[kind]
    assert alone(command).returncode == code
    result = program(*RUN, command)
    assert result.exit_code == code
    assert command.encode() in result.stderr
    assert ending(home) == (RunState.ENDED, code, "failed")


def test_streams_are_the_commands_own(program: AsProgram) -> None:
    data = os.urandom(300_000)
    copy = ["sh", "-c", "cat; echo to-stderr >&2"]
    result = subprocess.run(
        [*program.line(*RUN, *copy)], input=data, env=program.environment, capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 0
    assert result.stdout == data
    assert result.stderr == b"to-stderr\n"


@pytest.mark.parametrize("name", FORWARDED)
def test_signal_to_the_wrapper_reaches_the_command(home: Home, program: AsProgram, name: str) -> None:
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    with program.start(*RUN, "sh", "-c", script) as running:
        assert running.read_line() == "ready"
        running.send_signal(FORWARDED[name])
        assert running.read_line() == f"got {name}"
        assert running.wait().exit_code == 9
    assert ending(home)[1] == 9


def test_command_that_ignores_sigterm_goes_on_to_its_own_end(home: Home, program: AsProgram) -> None:
    script = "trap '' TERM; echo ready; read line; exit 5"
    with program.start(*RUN, "sh", "-c", script, stdin=True) as running:
        assert running.read_line() == "ready"
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGTERM)
        running.say("go on")
        assert running.wait().exit_code == 5
    assert ending(home)[1] == 5


def test_grandchild_that_outlives_the_command_does_not_hold_up_the_end(
    home: Home, program: AsProgram, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 300 >/dev/null 2>&1 & echo $! >{shlex.quote(str(pid_file))}; exit 4"
    assert program(*RUN, "sh", "-c", script).exit_code == 4
    grandchild = int(pid_file.read_text())
    os.kill(grandchild, 0)  # it is still there, and left alone
    kill(grandchild)
    assert ending(home)[1] == 4


def test_kill_of_the_wrapper_leaves_the_command_alone_and_the_run_can_be_delivered(
    home: Home, program: AsProgram
) -> None:
    with program.start(*RUN, "sh", "-c", "echo $$; exec sleep 300") as running:
        child = int(running.read_line())
        eventually(lambda: rows(home) > 0)
        running.kill()
    os.kill(child, 0)
    kill(child)
    assert ending(home)[0] is RunState.OPEN  # its tracker is gone: `drain` ends it as failed


def rows(home: Home) -> int:
    from spool import queries

    for path in directory.spool_paths(home.spool_dir):
        with suppress(SpoolRefused), closing(Spool(path)) as spool:  # just being created
            return queries.counts(spool.connection).recorded
    return 0


def test_signal_mask_and_ignored_signals_are_as_without_us(program: AsProgram) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, we block what we forward: none of it may reach the command."""
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    assert signal_sets(program(*RUN, *command).stdout) == signal_sets(alone(*command).stdout)
    assert signal_sets(program("run", "--mode", "disabled", "--", *command).stdout) == signal_sets(
        alone(*command).stdout
    )


def signal_sets(status: bytes) -> list[int]:
    internal_to_glibc = 1 << 31 | 1 << 32  # its posix_spawn leaves its own two signals ignored; its programs reset them
    return [int(line.split()[1], 16) & ~internal_to_glibc for line in status.splitlines()]


def test_environment_and_directory_are_the_callers(program: AsProgram, tmp_path: Path) -> None:
    script = "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"
    line = [sys.executable, "-c", script]
    with start_program([*program.line(*RUN, *line)], program.environment, cwd=tmp_path) as running:
        wrapped = running.wait()
    with start_program(line, program.environment, cwd=tmp_path) as running:
        bare = running.wait()
    assert wrapped.stdout == bare.stdout


def test_untracked_because_the_spool_directory_is_unusable_still_runs(
    home: Home, program: AsProgram, tmp_path: Path
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    result = program("run", "--spool-dir", str(occupied), "--", "sh", "-c", "echo out; exit 6")
    assert (result.exit_code, result.stdout) == (6, b"out\n")
    assert b"NOT recorded" in result.stderr
    assert str(occupied).encode() in result.stderr


def test_run_ends_soon_although_nobody_answers_and_exit_wait_is_short(home: Home, program: AsProgram) -> None:
    began_at = time.monotonic()
    result = program(
        "run",
        "--exit-wait",
        "0.2",
        "--",
        "true",
        SENTINEL_API_TOKEN="t" * 20,
        SENTINEL_API_URL="http://127.0.0.1:9",
    )
    assert result.exit_code == 0
    assert time.monotonic() - began_at < 25.0  # not the default wait of 30 s
    assert b"to deliver: tracker-stream drain" in result.stderr
