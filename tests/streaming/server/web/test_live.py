"""A real run is tracked while its page is open: it appears, its charts grow, it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.streaming.server.conftest import Service
from tests.streaming.server.web.tab import Tab
from tests.support import processes
from tests.support.processes import Home, clean_environment, start_program

pytestmark = pytest.mark.xdist_group("pages of live")

WORKLOAD = """
import os, sys, time
block = bytearray(40_000_000)
while not os.path.exists(sys.argv[1]):
    sum(range(200_000))
    time.sleep(0.01)
sys.exit(3)
"""


def test_a_tracked_run_appears_its_charts_grow_and_it_ends(
    tab: Tab, service: Service, home: Home, tmp_path: Path
) -> None:
    service.app.state.watcher.start()
    marker = processes.new_marker()
    environment = clean_environment(
        home,
        marker,
        SENTINEL_API_URL=service.url,
        SENTINEL_API_TOKEN=service.token,
        SENTINEL_S3_ENDPOINT_URL=str(service.s3.endpoint_url),
    )
    stop_file = tmp_path / "stop"
    command = [sys.executable, "-m", "streaming", "run", "-n", "live one", "-i", "0.2", "--upload-interval", "1", "--"]
    tab.go("/")
    assert "No run yet" in tab.text("#empty")
    with start_program([*command, sys.executable, "-c", WORKLOAD, stop_file], environment) as program:
        tab.wait_for(lambda: "recording" in tab.all_text("#rows"), "the run in the list")
        tab.page.click("#rows .job a")
        tab.page.wait_for_selector("body[data-ready]")
        tab.wait_for(lambda: tab.page.locator("#chart-cpu canvas").count() == 1, "the charts")
        _assert_growing(tab)
        stop_file.touch()
        assert program.wait().exit_code == 3
    tab.wait_text("#state", "failed")
    assert "The run is now: failed." in tab.all_text("#told")
    assert "Exit code 3" in tab.text("#facts")
    assert tab.page.evaluate("document.querySelector('#chart-cpu canvas').mark") == "the same node"
    assert tab.violations() == []
    processes.wait_gone(marker)


def _assert_growing(tab: Tab) -> None:
    """More rows, another range, another picture, on the same canvas."""
    tab.page.evaluate("document.querySelector('#chart-cpu canvas').mark = 'the same node'")
    picture = "document.querySelector('#chart-memory canvas').toDataURL()"
    for _ in range(2):
        rows, range_text, drawn = tab.text("#facts"), tab.text("#range-text"), tab.page.evaluate(picture)
        tab.wait_for(lambda before=rows: tab.text("#facts") != before, "more rows")  # type: ignore[misc]
        tab.wait_for(lambda before=range_text: tab.text("#range-text") != before, "a longer range")  # type: ignore[misc]
        tab.wait_for(lambda before=drawn: tab.page.evaluate(picture) != before, "a new drawing")  # type: ignore[misc]
