"""38: a signal sent to the process, its group, its tree, or each process: the command gets it as often as without us.

Senders are real processes; what launchers and schedulers do is done by `tests/support/signalling.py`. Real Open MPI is
here, too; the real SLURM in tests/slurm.
"""

import os
import pty
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import (
    Home,
    Program,
    clean_environment,
    descendants,
    eventually,
    kill,
    start_program,
    wait_gone,
)
from tests.support.signalling import COUNTING, SENDERS, send

RUN = [sys.executable, "-m", "streaming", "run", "-q", "-i", "0.1", "--"]
WITHOUT_US: list[str] = []
WAYS = {"wrapped": RUN, "alone": WITHOUT_US}


@pytest.fixture(autouse=True)
def _nothing_is_left(marker: str) -> Iterator[None]:
    """What works in the background is waited for: it must end by itself."""
    yield
    wait_gone(marker)


def counting(home: Home, marker: str, way: str, *, leaves_group: bool = False) -> Program:
    """A program that says which signal it got each time that it got one, and ends with its input."""
    return start_program(
        [*WAYS[way], sys.executable, "-c", COUNTING, "leave" if leaves_group else "stay"],
        clean_environment(home, marker),
        stdin=True,
    )


def received(program: Program) -> list[str]:
    """What it got besides, until its end."""
    program.say("end")
    lines = program.wait(60).stdout.decode().split()
    assert lines[-1] == "ended"
    return lines[:-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sender", SENDERS)
def test_command_gets_each_signal_once(home: Home, marker: str, sender: str, way: str) -> None:
    with counting(home, marker, way) as program:
        assert program.read_line() == "ready"
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            send(sender, program.pid, number)
            assert program.read_line() == number.name
        assert received(program) == []


def test_many_signals_of_both_kinds_are_all_told_apart(home: Home, marker: str) -> None:
    with counting(home, marker, "wrapped") as program:
        assert program.read_line() == "ready"
        for turn in range(20):
            number = (signal.SIGUSR1, signal.SIGUSR2)[turn % 2]
            send(("process", "group", "tree")[turn % 3], program.pid, number)
            assert program.read_line() == number.name
        assert received(program) == []


def test_different_signals_at_once_come_once_each(home: Home, marker: str) -> None:
    """As `scancel` does: one signal to all, and at once another."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    with counting(home, marker, "wrapped") as program:
        assert program.read_line() == "ready"
        send("group", program.pid, *numbers)
        assert sorted(program.read_line() for _ in numbers) == sorted(number.name for number in numbers)
        assert received(program) == []


def test_sender_that_takes_its_time_between_the_processes_is_waited_for(home: Home, marker: str) -> None:
    with counting(home, marker, "wrapped") as program:
        assert program.read_line() == "ready"
        for how in ("slow tree", "starved tree", "slow tree"):
            send(how, program.pid, signal.SIGUSR1)
            assert program.read_line() == "SIGUSR1"
        assert received(program) == []


def test_command_that_has_left_our_group_gets_what_is_sent_to_the_group(home: Home, marker: str) -> None:
    """Without us it would lead that group."""
    with counting(home, marker, "wrapped", leaves_group=True) as program:
        assert program.read_line() == "ready"
        for _ in range(2):
            send("group", program.pid, signal.SIGUSR1)
            assert program.read_line() == "SIGUSR1"
        send("tree", program.pid, signal.SIGUSR1)
        assert program.read_line() == "SIGUSR1"
        assert received(program) == []


def test_witness_that_was_killed_is_replaced(home: Home, marker: str) -> None:
    with counting(home, marker, "wrapped") as program:
        assert program.read_line() == "ready"
        (witness,) = [process for process in descendants(program.pid) if process.command == "wc"]
        kill(witness)
        send("process", program.pid, signal.SIGUSR1)
        assert program.read_line() == "SIGUSR1"
        send("group", program.pid, signal.SIGUSR2)
        assert program.read_line() == "SIGUSR2"
        assert received(program) == []


def test_signal_to_us_alone_is_passed_on_after_one_of_the_terminal(home: Home, marker: str) -> None:
    """Ctrl-C reaches the command by the kernel; a later `kill -INT` of us is another signal."""
    command = [*RUN, sys.executable, "-c", COUNTING, "until SIGUSR2"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, clean_environment(home, marker))
    said = b""

    def says(word: bytes, count: int) -> None:
        nonlocal said
        while said.count(word) < count:
            assert select.select([terminal], [], [], 30)[0], said
            said += os.read(terminal, 1000)

    try:
        says(b"ready", 1)
        for count in (1, 2):
            os.write(terminal, b"\x03")
            says(b"SIGINT", 2 * count - 1)
            eventually(lambda: not is_pending(pid, signal.SIGINT))  # a second one before that would be the same one
            os.kill(pid, signal.SIGINT)
            says(b"SIGINT", 2 * count)
        os.kill(pid, signal.SIGUSR2)
        says(b"ended", 1)
    finally:
        kill(pid)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert said.count(b"SIGINT") == 4


def is_pending(pid: int, number: int) -> bool:
    """Whether the process has been sent the signal and has not received it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_without_the_witness_program_signals_are_passed_on(home: Home, marker: str, tmp_path: Path) -> None:
    program = start_program(
        [*RUN, sys.executable, "-c", COUNTING, "stay"], clean_environment(home, marker, PATH=str(tmp_path)), stdin=True
    )
    with program:
        assert program.read_line() == "ready"
        send("process", program.pid, signal.SIGUSR1)
        assert program.read_line() == "SIGUSR1"
        assert received(program) == []


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed (scripts/test installs it)")
@pytest.mark.parametrize("way", WAYS)
def test_signal_at_mpirun_reaches_each_rank_once(home: Home, marker: str, way: str) -> None:
    environment = clean_environment(
        home,
        marker,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
    )
    rank = [sys.executable, "-c", COUNTING, "until SIGUSR2"]  # only the first rank has an input
    with start_program(["mpirun", "-n", "2", *WAYS[way], *rank], environment) as program:
        assert [program.read_line() for _ in range(2)] == ["ready"] * 2
        program.send_signal(signal.SIGUSR1)
        assert [program.read_line() for _ in range(2)] == ["SIGUSR1"] * 2
        program.send_signal(signal.SIGUSR2)
        assert sorted(program.wait(60).stdout.decode().split()) == ["SIGUSR2", "SIGUSR2", "ended", "ended"]
