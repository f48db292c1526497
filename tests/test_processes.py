"""Processes are started clean, found wherever they hide, and killed by id."""

import os
import signal
import time

import pytest

from tests.support import processes
from tests.support.processes import Home, Program, clean_environment, eventually, run_script, start_script

WAITS = "print('ready', flush=True); import sys; sys.stdin.readline()"
DETACHES = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
child.returncode = 0  # ours no longer: no warning about it
"""


@pytest.fixture
def environment(home: Home, marker: str) -> dict[str, str]:
    return clean_environment(home, marker)


def test_environment_is_clean(monkeypatch: pytest.MonkeyPatch, home: Home, marker: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "SENTINEL_API_TOKEN", "https_proxy", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "ambient")
    made = clean_environment(home, marker, SENTINEL_API_URL="given")
    assert "ambient" not in made.values()
    assert made["SENTINEL_API_URL"] == "given"
    assert made["HOME"] == str(home.path) == os.environ["HOME"]
    assert made["TRACKER_DISCOVER_CLOUD"] == "0"


def test_script_runs_in_its_home(environment: dict[str, str]) -> None:
    result = run_script("import os, sys; print(os.getcwd(), *sys.argv[1:]); sys.exit(3)", environment, "a", "b")
    assert result.exit_code == 3
    assert result.stdout.decode().split() == [environment["HOME"], "a", "b"]
    assert result.check_unfelt(exit_code=3, at_most_s=30).stderr == b""
    with pytest.raises(AssertionError, match="exit code 3 instead of 0"):
        result.check_unfelt()


def test_program_that_does_not_end_is_killed_and_quoted(environment: dict[str, str]) -> None:
    with (
        start_script("print('stuck', flush=True); import signal; signal.pause()", environment) as program,
        pytest.raises(AssertionError, match=r"did not end within 0\.5 s.*stuck"),
    ):
        program.wait(0.5)


def test_detached_child_is_found_killed_and_gone(environment: dict[str, str], marker: str) -> None:
    with start_script(DETACHES, environment) as program:
        child = int(program.read_line())
        assert program.wait(60).exit_code == 0
    (found,) = processes.marked(marker)
    assert found.pid == child
    assert "signal.pause" in found.command
    with pytest.raises(AssertionError, match="still there"):
        processes.wait_gone(marker, 0.1)
    processes.kill(found)
    processes.wait_gone(marker, 5)
    assert not found.is_alive


def test_what_is_left_behind_is_told_and_killed(environment: dict[str, str], marker: str) -> None:
    with start_script(DETACHES, environment) as program:
        child = processes.find(int(program.read_line()))
        program.wait(60)
    assert child is not None
    with pytest.raises(AssertionError, match="left behind"):
        processes.assert_none_left(marker)
    eventually(lambda: not child.is_alive, 5, "the child lives on")
    processes.assert_none_left(marker)


def test_other_tests_processes_are_not_ours(environment: dict[str, str]) -> None:
    with ready(environment) as program:
        assert processes.marked(processes.new_marker()) == []
        assert program.pid in [process.pid for process in processes.descendants(os.getpid())]


def test_kill_spares_a_later_process_with_the_same_pid(environment: dict[str, str]) -> None:
    with ready(environment) as program:
        real = processes.find(program.pid)
        assert real is not None
        processes.kill(processes.Process(real.pid, real.start_ticks - 1, real.command))
        assert real.is_alive
        processes.kill(program.pid, signal.SIGTERM)
        assert program.wait(60).exit_code == -signal.SIGTERM


def ready(environment: dict[str, str]) -> Program:
    program = start_script(WAITS, environment, stdin=True)
    assert program.read_line() == "ready"
    return program


def test_eventually_returns_what_is_true_and_describes_what_is_not() -> None:
    until_s = time.monotonic() + 0.1
    assert eventually(lambda: "met" if time.monotonic() > until_s else "") == "met"
    with pytest.raises(AssertionError, match=r"after 0.05 s: count is 3"):
        eventually(lambda: False, 0.05, lambda: f"count is {3}")
