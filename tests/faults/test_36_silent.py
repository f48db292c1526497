"""Fault 36: everything of a run is killed on a node that shares its directory with others: silent, and ended in minutes."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from spool import Spool, directory
from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.nodes import start_on_node
from tests.support.processes import (
    Home,
    ProgramResult,
    clean_environment,
    eventually,
    kill_marked,
    new_marker,
    wait_gone,
)
from tests.support.programs import read_until, recorded, surroundings

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")
COMMAND = [sys.executable, "-m", "streaming"]
JOB = {"SLURM_JOB_ID": "4711", "SLURM_CLUSTER_NAME": "hpc", "SLURM_JOB_NAME": "train"}
WORK = "print('ready', flush=True); import time; time.sleep(600)"


@dataclass
class Login:
    """A login node that shares the directory."""

    environment: dict[str, str]

    def __call__(self, *arguments: str) -> ProgramResult:
        with start_on_node("login", [*COMMAND, *arguments], self.environment) as command:
            return command.wait()

    def says_of_squeue(self, script: str) -> None:
        """From now on there is a SLURM, and this is what it says."""
        folder = Path(self.environment["HOME"]) / "bin"
        folder.mkdir()
        for name, text in (("scontrol", "echo 'ClusterName = hpc'"), ("squeue", script)):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"


@pytest.fixture
def login(far_end: FarEnd, home: Home, marker: str) -> Iterator[Login]:
    yield Login(surroundings(home, marker, far_end))
    wait_gone(marker)


def killed_on(node: str, home: Home, far_end: FarEnd, *options: str) -> Path:
    """A run on that node, of which nothing is left but its file."""
    there = new_marker()
    environment = {**clean_environment(home, there, **far_end.environment()), **JOB}
    command = [*COMMAND, "run", "-i", "0.1", "--upload-interval", "1", *options, "--", sys.executable, "-c", WORK]
    with start_on_node(node, command, environment) as job:
        read_until(job, "ready")
        far_end.journal.wait_for_count("put", 1, 60)
        (path,) = directory.spool_paths(home.spool_dir)
        kill_marked(there)
    wait_gone(there)
    return path


def pass_time(path: Path, seconds: float) -> None:
    """As if so much time had passed since its last row: the test does not wait for it."""
    with closing(Spool(path)) as spool, spool.connection.transaction() as db:
        db.execute("UPDATE batch SET appended_at = appended_at - ?", (seconds,))


def judge_dead(far_end: FarEnd, path: Path) -> None:
    oracle.judge(far_end.evidence(), recorded(path), run_status="failed", exit_code=None)


def test_fault_36_run_killed_on_a_node_is_silent_and_then_ended_by_the_login_node(
    home: Home, far_end: FarEnd, login: Login
) -> None:
    path = killed_on("n1", home, far_end)
    pass_time(path, 240)
    shown = login("status", "--check")
    assert shown.exit_code == 3
    assert b"1 run: 1 silent." in shown.stdout
    assert re.search(rb"silent for 4 min( \d\d s)? on n1", shown.stdout)
    drained = login("drain")
    assert drained.exit_code == 3
    assert re.search(rb"  silent for 4 min( \d\d s)? on n1; ended after 5 min of silence", drained.stdout)
    assert far_end.run().finish is None
    pass_time(path, 61)
    drained = login("drain")
    assert (drained.exit_code, drained.stdout.split()[-1]) == (0, b"delivered")
    assert login("status", "--check").exit_code == 0
    judge_dead(far_end, path)


def test_fault_36_run_killed_on_a_node_is_ended_by_another_node_that_records(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    dead = killed_on("n1", home, far_end)
    pass_time(dead, 301)
    first = far_end.run().run_id
    command = [*COMMAND, "run", "-i", "0.1", "--", sys.executable, "-c", "pass"]
    with start_on_node("n2", command, surroundings(home, marker, far_end)) as other:
        other.wait().check_unfelt()
    far_end.wait_finished(first, 60)
    wait_gone(marker)
    oracle.judge(far_end.evidence(first), recorded(dead), run_status="failed", exit_code=None)


@pytest.mark.parametrize(
    ("squeue", "is_over"), [("exit 0", True), ("echo '4711 RUNNING 0'", False)], ids=["the job is over", "it runs"]
)
def test_fault_36_run_of_a_job_that_is_over_is_ended_at_once(
    home: Home, far_end: FarEnd, login: Login, squeue: str, is_over: bool
) -> None:
    path = killed_on("n1", home, far_end)
    login.says_of_squeue(squeue)
    pass_time(path, 20)
    drained = login("drain")
    assert drained.exit_code == (0 if is_over else 3), drained.stdout
    assert (far_end.run().finish is not None) is is_over
    if is_over:
        judge_dead(far_end, path)


def test_fault_36_copy_of_a_killed_run_is_uploaded_and_not_ended(
    home: Home, far_end: FarEnd, login: Login, tmp_path: Path
) -> None:
    path = killed_on("n1", home, far_end)
    pass_time(path, 3600)
    home.spool_dir.rename(tmp_path / "original")
    with start_on_node("login", ["cp", "-a", tmp_path / "original", home.spool_dir], login.environment) as copying:
        copying.wait().check_unfelt()
    drained = login("drain")
    assert drained.exit_code == 3
    assert b"ended after 1 d of silence" in drained.stdout
    assert far_end.run().finish is None
    named = login("drain", "--ended", path.stem)
    assert (named.exit_code, named.stdout.split()[-1]) == (0, b"delivered")
    judge_dead(far_end, path)


# -- a person's word ---------------------------------------------------------------------------------------------------


def test_fault_37_word_that_names_no_run_spares_those_that_were_seen_just_now(
    home: Home, far_end: FarEnd, login: Login
) -> None:
    there = new_marker()
    offline = {**clean_environment(home, there), "TRACKER_STREAM_MODE": "offline"}
    command = [*COMMAND, "run", "-i", "0.1", "--", sys.executable, "-c", "print('ready', flush=True); input()"]
    with start_on_node("n1", command, offline, stdin=True) as job:
        read_until(job, "ready")
        (path,) = eventually(lambda: directory.spool_paths(home.spool_dir))
        eventually(lambda: len(recorded(path).acknowledged) > 3)
        spared = login("drain", "--ended")
        assert spared.exit_code == 0
        assert b"recording: not ended, its tracker was seen" in spared.stdout
        assert f"drain --ended {directory.short_name(path)}".encode() in spared.stdout
        job.say("")
        job.wait().check_unfelt()
    wait_gone(there)
    assert directory.spool_paths(home.spool_dir) == [path], "it goes on as the same run"
    assert login("drain").exit_code == 0
    oracle.judge(far_end.evidence(), recorded(path), run_status="finished", exit_code=0)
