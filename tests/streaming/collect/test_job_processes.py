"""Which processes belong to a job, by what they inherit; and that what has ended still counts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from streaming.collect.job_processes import JobProcesses
from tests.support.processes import eventually

JOB = {"PMIX_NAMESPACE": f"test-{os.getpid()}"}


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with closing(pipe):
                pass


def start(started: list["subprocess.Popen[bytes]"], script: str, **environment: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script + "\nprint('up', flush=True)\ninput()"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_members_carry_the_same_identity(started: list["subprocess.Popen[bytes]"]) -> None:
    member, another = start(started, "", **JOB), start(started, "", **JOB)
    start(started, "", PMIX_NAMESPACE=JOB["PMIX_NAMESPACE"] + "0")
    start(started, "", XPMIX_NAMESPACE=JOB["PMIX_NAMESPACE"])
    job = JobProcesses(JOB)
    assert job.pids() == {member.pid, another.pid}
    assert job.others(member.pid) == {another.pid}
    assert job.key == JobProcesses({**JOB, "PMIX_RANK": "7"}).key
    assert job.key != JobProcesses({"PMIX_NAMESPACE": "other"}).key


def test_use_of_what_has_ended_still_counts(started: list["subprocess.Popen[bytes]"]) -> None:
    busy = "import os\nwhile os.times().user < 0.3: pass"
    first, second = start(started, busy, **JOB), start(started, busy, **JOB)
    job = JobProcesses(JOB)
    before = job.measure(0)
    assert before["utime"] >= 0.6
    assert (before["children"], before["memory_mib"] > 5) == (1, True)
    first.kill()
    first.wait()
    after = job.measure(0)
    assert after["utime"] >= before["utime"]
    second.kill()
    second.wait()
    eventually(lambda: job.measure(0)["memory_mib"] == 0)
    assert job.measure(0)["utime"] >= before["utime"]


def test_outside_of_a_job_there_is_none() -> None:
    assert not JobProcesses({"PATH": "/bin", "SLURM_JOB_ID": ""})
