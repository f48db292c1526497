"""The same warning at most every ten minutes; a drain without a terminal says a line every half minute."""

import io
import logging

import pytest

from streaming.cli.drain.progress import DrainReport, Rate
from streaming.cli.terminal.log import log_to_stderr
from streaming.cli.terminal.screen import Screen
from streaming.read.status import summarize
from streaming.upload.drain import Result
from tests.support.processes import Home
from tests.support.runs import ended_run


class Clock:
    """Tells what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_same_warning_is_shown_again_after_ten_minutes_with_its_count() -> None:
    stream, clock = io.StringIO(), Clock()
    log_to_stderr(Screen(stream, {}), clock=clock)
    log = logging.getLogger("streaming.test")
    for second in range(0, 1200, 60):
        clock.now = float(second)
        log.warning("the service cannot be reached (%s)", "DNS")
    log.warning("another")
    assert stream.getvalue().splitlines() == [
        "tracker-stream: the service cannot be reached (DNS)",
        "tracker-stream: the service cannot be reached (DNS) (9 times since)",
        "tracker-stream: another",
    ]


def test_warning_is_one_line_without_control_characters() -> None:
    stream = io.StringIO()
    log_to_stderr(Screen(stream, {}))
    logging.getLogger("streaming.test").warning("evil %s", "\x1b[31m\nline")
    assert stream.getvalue() == "tracker-stream: evil ?[31m line\n"


def test_quiet_keeps_errors_only() -> None:
    stream = io.StringIO()
    log_to_stderr(Screen(stream, {}), quiet=True)
    logging.getLogger("streaming.test").warning("hidden")
    logging.getLogger("streaming.test").error("shown")
    assert stream.getvalue() == "tracker-stream: shown\n"


def test_drain_without_a_terminal_says_a_line_every_half_minute(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=1000)
    stream, clock = io.StringIO(), Clock()
    report = DrainReport({path: summarize(path)}, Screen(stream, {}), clock=clock)
    report.begin()
    result = Result(path)
    for second in range(61):
        clock.now = float(second)
        result.sent_rows = second * 10
        report.on_event(result, {"event": "sent"})
        report.on_tick()
    assert stream.getvalue().splitlines() == [
        "tracker-stream: draining 1 run: 1,000 rows, 19 kB",
        "tracker-stream: 300 of 1,000 rows, 0 of 1 runs, 10 rows/s, ETA 1 min 10 s",
        "tracker-stream: 600 of 1,000 rows, 0 of 1 runs, 10 rows/s, ETA 40 s",
    ]


def test_rate_forgets_what_is_long_ago() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.eta_s(10) is None
    for second in range(100):
        clock.now = float(second)
        rate.note(min(second, 50))
    assert rate.per_second() == pytest.approx(0.0, abs=0.01)
