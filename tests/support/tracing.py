"""strace, attached to a child of the nursery: which system calls it makes, killed or failed at the n-th of them.

Why attached: the counts begin when the child is ready, so that no import and no file name of this machine shifts them.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support.nursery import End, Nursery

CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+|\?)(.*)$")
DATA_BYTES = 1 << 22


@dataclass(frozen=True)
class Call:
    """One system call as strace prints it; `result` is None if it never returned."""

    name: str
    arguments: str
    result: int | None


@lru_cache
def why_impossible() -> str | None:
    """Why nothing can be traced here, None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (scripts/test installs it when run as root)"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.decode().strip()}"


def require_strace() -> None:
    """Skip the test, saying why, where nothing can be traced."""
    if reason := why_impossible():
        pytest.skip(reason)


def run_traced(nursery: Nursery, order: dict[str, object], output: Path, *, options: Sequence[str]) -> End:
    """Let the nursery's next child live under strace, whose output goes to the file `output`."""
    pid = nursery.prepare(order)
    command = ["strace", "-f", "-p", str(pid), "-o", str(output), *options]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    with tracer.stderr:
        said = tracer.stderr.readline()
        end = nursery.go()
        said += tracer.stderr.read()
    tracer.wait(60)
    assert b"attached" in said, f"strace says: {said.decode()}"
    return end


def calls(output: Path) -> list[Call]:
    """The system calls in order, without the first: the wait for `go`, during which strace attached."""
    found = [CALL.match(line) for line in output.read_text().splitlines()]
    made = [Call(m[1], m[2], None if m[3] == "?" else int(m[3])) for m in found if m]
    return made[1:]


def inject_kill(name: str, nth: int) -> list[str]:
    """Kill with SIGKILL at the n-th call of this name (before it takes effect)."""
    return ["-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={nth}"]


def inject_error(names: str, error: str, nth: int | str) -> list[str]:
    """Let the n-th call fail without taking effect; `3+` means all from the third on."""
    return ["-e", f"trace={names}", "-e", f"inject={names}:error={error}:when={nth}"]


def points(made: Sequence[Call]) -> list[tuple[str, int]]:
    """Every call of a complete run as (name, which one of that name)."""
    names = [call.name for call in made]
    return [(name, names[: number + 1].count(name)) for number, name in enumerate(names)]
