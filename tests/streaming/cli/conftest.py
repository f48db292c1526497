"""The command, in this process where that is enough, and as a program of its own where it is not."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.processes import (
    ROOT,
    Home,
    Program,
    ProgramResult,
    clean_environment,
    start_program,
    wait_gone,
)

COMMAND = (sys.executable, "-m", "streaming")


@pytest.fixture(autouse=True)
def _own_surroundings(home: Home) -> Iterator[None]:
    """Settings and spools of the test's own, and the logging of the test run as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class InProcess:
    """`tracker-stream ARGUMENTS` without a new interpreter; stdout and stderr apart."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        from streaming.cli import main

        result = CliRunner().invoke(main, arguments, prog_name="tracker-stream", input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@dataclass(frozen=True)
class AsProgram:
    """`tracker-stream ARGUMENTS` as a user starts it."""

    environment: dict[str, str]

    def start(self, *arguments: str, stdin: bool = False, **settings: str) -> Program:
        return start_program([*COMMAND, *arguments], {**self.environment, **settings}, stdin=stdin)

    def __call__(self, *arguments: str, deadline_s: float = 60.0, **settings: str) -> ProgramResult:
        with self.start(*arguments, **settings) as program:
            return program.wait(deadline_s)

    def line(self, *arguments: str) -> Sequence[str | Path]:
        return [*COMMAND, *arguments]


@pytest.fixture
def cli() -> InProcess:
    return InProcess()


@pytest.fixture
def program(home: Home, marker: str) -> Iterator[AsProgram]:
    """At the end of the test what works in the background (discovery, an uploader) is waited for: it must end by itself."""
    yield AsProgram(clean_environment(home, marker, TRACKER_STREAM_LINGER="3"))
    wait_gone(marker)


__all__ = ["ROOT", "AsProgram", "InProcess"]
