"""Signals of a real SLURM and of mpirun reach the program exactly as often as without us, however they are sent."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import eventually, kill, wait_gone
from tests.support.slurm_cluster import User

COUNTING = """
import os, signal, sys, time

def note(number, _frame):
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + chr(10))

for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, note)
print("up", flush=True)
while not os.path.exists(sys.argv[1] + ".end"):
    time.sleep(0.05)
"""
TRACKED = "tracker-stream run -q --mode offline -i 0.2 -- "
SETTLED_S = 1.5  # what was to be sent twice has been by then; a slower machine only makes the test less strict

Send = Callable[[User, int, str], None]


def to_the_steps(user: User, job: int, name: str) -> None:
    user.cancel(job, f"--signal={name}")


def to_all(user: User, job: int, name: str) -> None:
    user.cancel(job, f"--signal={name}", "--full")


def to_the_batch_script(user: User, job: int, name: str) -> None:
    user.cancel(job, f"--signal={name}", "--batch")


def received(user: User, script: str, send: Send) -> tuple[list[str], list[str]]:
    """What a program in a job gets when SIGUSR1 and then SIGUSR2 are sent to the job: tracked, and without us."""
    program = user.home.path / "counting.py"
    program.write_text(COUNTING)
    logs = {prefix: user.home.path / f"signals-{bool(prefix)}" for prefix in (TRACKED, "")}
    commands = {log: f"{prefix}{Path(sys.executable).name} {program} {log}" for prefix, log in logs.items()}
    jobs = {user.submit(script.replace("PROGRAM", command)): log for log, command in commands.items()}
    eventually(lambda: all("up" in user.output(job) for job in jobs), 60, lambda: str([*map(user.output, jobs)]))
    for name in ("USR1", "USR2"):
        for job in jobs:
            send(user, job, name)
        eventually(lambda name=name: all(f"SIG{name}" in lines(log) for log in jobs.values()), 30)  # type: ignore[misc]
        time.sleep(SETTLED_S)
    for log in jobs.values():
        Path(f"{log}.end").touch()
    user.wait_over(*jobs)
    wait_gone(user.marker, 60)
    return lines(logs[TRACKED]), lines(logs[""])


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# The batch script's own shell gets what is sent to all; it waits on, as a careful script does.
WAITING = "trap : USR1 USR2; PROGRAM & while kill -0 $! 2>/dev/null; do wait; done"


@pytest.mark.parametrize(
    ("script", "send"),
    [
        ("srun PROGRAM", to_the_steps),
        (WAITING.replace("PROGRAM", "srun PROGRAM"), to_all),
        ("exec PROGRAM", to_the_batch_script),
        (WAITING, to_all),
    ],
    ids=["step", "full", "batch", "full without a step"],
)
def test_signal_of_slurm_arrives_as_often_as_without_us(user_anywhere: User, script: str, send: Send) -> None:
    with_us, without_us = received(user_anywhere, script, send)
    assert with_us == without_us


def to_mpirun(user: User, job: int, name: str) -> None:
    """As `kill` does on the node: mpirun passes it on to what it started."""
    for process in user.processes_of(job):
        if process.command.startswith("mpirun"):
            kill(process, signal.Signals[f"SIG{name}"])


def test_signal_of_mpirun_arrives_as_often_as_without_us(user: User) -> None:
    with_us, without_us = received(user, "mpirun -n 1 PROGRAM", to_mpirun)
    assert with_us == without_us
