"""44: whatever a sample waits for, the command's end is seen at once, and its exit code is ours."""

import sys
import time
from contextlib import closing

import pytest

from spool import Spool, directory, queries
from tests.support.processes import Home, clean_environment, start_program, wait_gone

# The command line, with a system call that hangs for one place as it does where a server of files is gone.
HANGING_MOUNT = """
import os, sys, threading
real, forever = os.statvfs, threading.Event()
def statvfs(path):
    if path == b"/":
        forever.wait()
    return real(path)
os.statvfs = statvfs
from streaming.cli import main
main(["run", *sys.argv[1:]], prog_name="tracker-stream")
"""
HANGING_SAMPLE = """
import sys, threading
from streaming.cli.commands import run
from streaming.collect import procfs
run.LEAVE_S = 1.0
procfs.memory_kib_of = lambda pid: threading.Event().wait()
run.run(sys.argv[1:], prog_name="tracker-stream run")
"""
FAILING_SAMPLES = """
import sys
from streaming.collect import procfs
from streaming.cli import main
real, count = procfs.io_bytes, [0]
def io_bytes(pid):
    count[0] += 1
    if 3 < count[0] < 7:
        raise ArithmeticError("nobody foresaw it")
    return real(pid)
procfs.io_bytes = io_bytes
main(["run", *sys.argv[1:]], prog_name="tracker-stream")
"""


def ran(home: Home, marker: str, script: str, *words: str) -> tuple[int, bytes, float]:
    with start_program([sys.executable, "-c", script, *words], clean_environment(home, marker)) as program:
        assert program.read_line() == "ran"
        ended_at_s = time.monotonic()
        result = program.wait(60)
        return result.exit_code, result.stderr, time.monotonic() - ended_at_s


def row_count_and_duration(home: Home) -> tuple[int, float]:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        run = spool.run()
        return queries.counts(spool.connection).recorded, (run.ended_at or 0) - run.started_at


@pytest.fixture(autouse=True)
def _nothing_is_left(marker: str) -> object:
    yield
    wait_gone(marker)


def test_mount_that_hangs_is_told_once_and_the_command_is_recorded(home: Home, marker: str) -> None:
    code, said, _ = ran(home, marker, HANGING_MOUNT, "-i", "0.1", "--", "sh", "-c", "sleep 2; echo ran; exit 3")
    assert code == 3
    assert said.count(b"mount.silent: / does not answer") == 1
    row_count, duration_s = row_count_and_duration(home)
    assert row_count > 5
    assert 2 <= duration_s < 20


def test_sample_that_hangs_for_ever_holds_up_neither_the_end_nor_the_exit_code(home: Home, marker: str) -> None:
    code, _, after_s = ran(home, marker, HANGING_SAMPLE, "--", "sh", "-c", "sleep 0.5; echo ran; exit 3")
    assert code == 3
    assert after_s < 20


def test_sample_that_fails_is_told_once_and_the_next_one_is_taken(home: Home, marker: str) -> None:
    code, said, _ = ran(home, marker, FAILING_SAMPLES, "-i", "0.1", "--", "sh", "-c", "sleep 2; echo ran; exit 3")
    assert code == 3
    assert said.count(b"tracker.defect") == 1
    assert row_count_and_duration(home)[0] > 5
