"""What a guarded command prints is kept, and never without bound."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from streaming.server.process.guard import LOG_MAX_BYTES
from streaming.server.process.guarded import Guarded, launch, log_tail

LINES = 400_000
TALK = f"""
import sys
for number in range({LINES}):
    print("line", number, "of a command that talks too much", file=sys.stderr)
print("the end")
"""


def run(directory: Path, program: str) -> Guarded:
    command = [sys.executable, "-c", program]
    return launch(command, directory=directory, log=directory / "log", env=dict(os.environ), detach=False)


@pytest.fixture
def talked(tmp_path: Path) -> Path:
    directory = tmp_path / "own"
    directory.mkdir()
    process = run(directory, TALK)
    assert process.guard.wait_ended(60)
    process.stop()
    return directory


def test_a_command_that_talks_too_much_fills_no_disk_and_its_last_words_are_kept(talked: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in talked.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert all(size < LOG_MAX_BYTES + 70_000 for size in sizes.values())
    assert log_tail(talked / "log").splitlines()[-1] == "the end"
    assert {path.stat().st_mode & 0o777 for path in talked.iterdir()} == {0o600}
