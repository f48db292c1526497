"""`attach`: a process that somebody else started, tracked and left alone."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from spool import Run, RunState, Spool, directory, queries
from spool.errors import SpoolRefused
from tests.streaming.cli.conftest import AsProgram, InProcess
from tests.support.far_end import FarEnd
from tests.support.processes import ROOT, Home, Program, eventually, start_program

NOBODY = 65534


def rows_and_run(home: Home) -> tuple[int, Run | None]:
    for path in directory.spool_paths(home.spool_dir):
        with suppress(SpoolRefused), closing(Spool(path)) as spool:  # just being created
            return queries.counts(spool.connection).recorded, spool.run()
    return 0, None


def sleeper(program: AsProgram) -> Program:
    return start_program(["sleep", "300"], program.environment)


def test_process_is_tracked_until_it_ends(home: Home, program: AsProgram) -> None:
    with (
        sleeper(program) as tracked,
        program.start("attach", "--pid", str(tracked.pid), "-i", "0.1", "-n", "train") as tracking,
    ):
        eventually(lambda: rows_and_run(home)[0] >= 2)
        tracked.kill()
        result = tracking.wait()
    assert result.exit_code == 0
    assert b"has ended" in result.stderr
    run = rows_and_run(home)[1]
    assert run is not None
    assert (run.state, run.exit_code, run.run_status) == (RunState.ENDED, None, "finished")
    assert (run.metadata["job_name"], run.metadata["command"]) == ("train", ["sleep", "300"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_tracking_and_not_the_process(
    home: Home, program: AsProgram, number: signal.Signals, code: int
) -> None:
    with sleeper(program) as tracked:
        with program.start("attach", "--pid", str(tracked.pid), "-i", "0.1") as tracking:
            eventually(lambda: rows_and_run(home)[0] >= 1)
            tracking.send_signal(number)
            result = tracking.wait()
        assert tracked.popen.poll() is None
    assert result.exit_code == code
    assert re.search(rb"process \d+ left after", result.stderr)
    assert rows_and_run(home)[1].state is RunState.ENDED  # type: ignore[union-attr]


def test_rows_are_delivered(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    with (
        sleeper(program) as tracked,
        program.start("attach", "--pid", str(tracked.pid), "-i", "0.1", **far_end.environment()) as tracking,
    ):
        eventually(lambda: rows_and_run(home)[0] >= 1)
        tracked.kill()
        assert tracking.wait().exit_code == 0
    run = far_end.wait_finished()
    assert run.finish is not None
    assert "exit_code" not in run.finish


def test_process_that_is_not_there_is_an_error_in_words(home: Home, cli: InProcess) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    result = cli("attach", "--pid", str(ended.pid))
    assert result.exit_code == 1
    assert f"there is no process {ended.pid}" in result.stderr
    assert not home.spool_dir.exists()


def test_kernel_thread_is_an_error_in_words(cli: InProcess) -> None:
    status = Path("/proc/2/status")
    if not status.exists() or "VmRSS" in status.read_text():
        pytest.skip("process 2 is no kernel thread here: a container of its own pids")
    assert "kernel thread" in cli("attach", "--pid", "2").stderr


@pytest.mark.parametrize("pid", ["0", "-1", "x"])
def test_what_is_no_pid_is_a_usage_error(cli: InProcess, pid: str) -> None:
    assert cli("attach", "--pid", pid).exit_code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_process_of_another_user_is_tracked_as_far_as_it_shows(home: Home, program: AsProgram) -> None:
    """Sampled by `nobody`: smaps and io of root's process are forbidden, which must not be an error."""
    try:
        subprocess.run([sys.executable, "-c", ""], user=NOBODY, check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this interpreter is not readable for other users")
    script = (
        "import sys; from streaming.collect.sampler import Sampler\n"
        "from streaming.cli.commands.attach import _may_look_inside\n"
        "pid = int(sys.argv[1]); sampler = Sampler(pid)\n"
        "import time; time.sleep(0.1); assert sampler.sample() is not None\n"
        "assert sampler.latest['process_memory_mib'] > 0; assert not _may_look_inside(pid)"
    )
    with sleeper(program) as tracked:
        found = subprocess.run(
            [sys.executable, "-c", script, str(tracked.pid)],
            env={**program.environment, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 0, found.stderr.decode()
