"""Fixtures that every test may ask for."""

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.far_end import FarEnd
from tests.support.processes import Home, Process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, help="so many at once in the sweep of an engine's failpoints")


def pytest_configure() -> None:
    """Signals as in a terminal, however the tests were started: `nohup` and a shell's `&` leave them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many inputs the tests in `tests/security` tried, by group (they tell it by `record_property`)."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports(""):
        counts.update({group: count for name, (group, count) in report.user_properties if name == "attack"})
    if counts:
        terminalreporter.section("attacks tried")
    for group, count in sorted(counts.items()):
        terminalreporter.write_line(f"{count:6,}  {group}")


ENDING_S = 5.0  # an engine without a run waits a moment for the next one

HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, until the session ends
HELPERS += ("streaming.server.metrics.worker",)  # and the parser of the server that the session shares


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    """A scripted far end on free ports of 127.0.0.1."""
    with FarEnd() as made:
        yield made


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test makes a key in the state directory of whoever runs it. (`home` has a place of its own.)"""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """HOME, TRACKER_STREAM_DIR and TMPDIR of this test's own; no SENTINEL_*, TRACKER_*, AWS_* and the like around."""
    for name in filter(processes.is_scrubbed, list(os.environ)):
        if not name.startswith(("PYTEST", "PYTHON", "COV_")):
            monkeypatch.delenv(name)
    made = Home.below(tmp_path)
    for name, text in made.settings().items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return made


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The mark that every process of this test inherits; at the end none may be left, detached or not."""
    made = processes.new_marker()
    monkeypatch.setenv(processes.MARKER_NAME, made)
    before = set(_children())
    yield made
    with suppress(AssertionError):
        processes.wait_gone(made, ENDING_S)
    processes.assert_none_left(made)
    left = [process for process in _children() if process not in before | processes.SPARED]
    for process in left:
        processes.kill(process)
    assert not left, f"children left behind (killed now): {left}"


def _children() -> list[Process]:
    family = processes.descendants(os.getpid())
    return [process for process in family if not any(name in process.command for name in HELPERS)]
