"""`export --format html`: one file with the charts, for any browser, without the server or what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spool import Batch, NewRun, Spool, system
from tests.streaming.server.web.rows import HOST, METADATA, PEAK_AT, PEAK_CORES, csv_of, rows
from tests.streaming.server.web.tab import Tab
from tests.support.processes import ROOT, Home

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("pages in a file")

# None among the modules: an import of it fails, as if it were not installed.
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["fastapi", "uvicorn", "starlette", "pydantic", "streaming.server"]))
from streaming.cli import main
main()
"""


def recorded(home: Home, count: int, *, start: float, **metadata: object) -> str:
    """A spool that holds a run of so many rows; its id."""
    spool = Spool.create(
        home.spool_dir,
        NewRun(
            tracker=system.identify(os.getpid()),
            started_at=start,
            metadata={**{k: v for k, v in METADATA.items() if k not in HOST}, "command": ["train", "a b"], **metadata},
            host_info=HOST,
            cloud_info={},
        ),
    )
    header, _, lines = csv_of(rows(start=start, count=count)).partition(b"\n")
    spool.append([Batch(header + b"\n", lines)])
    spool.end(exit_code=0, run_status="finished", ended_at=start + count)
    spool.close()
    return spool.path.stem


def exported(home: Home, run: str, place: Path) -> Path:
    command = [sys.executable, "-c", PROGRAM, "export", run, "-o", str(place / "run.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return place / "run.html"


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Tab]:
    made = Tab.open(chromium, "file://", width=1400, height=900, scheme="light")
    yield made
    made.close()
    assert made.errors == []


def go(tab: Tab, page: Path) -> None:
    tab.page.goto(f"file://{page}")
    tab.page.wait_for_selector("body[data-ready]")


def test_the_file_shows_the_run_and_zooms_without_asking_anybody(home: Home, tab: Tab, tmp_path: Path) -> None:
    page = exported(home, recorded(home, 3000, start=time.time() - 3000), tmp_path)
    go(tab, page)
    assert tab.page.locator("#charts h3").all_inner_texts() == ["CPU", "Memory", "Disk", "Network", "GPU", "GPU memory"]
    assert tab.text("#state") == "finished"
    assert tab.text("#facts").endswith("Duration 50 min Exit code 0 Rows 3,000")
    assert f"peak {PEAK_CORES} cores" in tab.all_text("#text-cpu")
    assert "Limit: 64 GiB" in tab.all_text("#text-memory")
    assert "train 'a b'" in tab.text("#metadata")
    assert tab.text("#summary tr:first-child").endswith("16 cores 94 %")
    assert "MB/s" in tab.text("#summary tr:nth-child(3)")
    tab.page.focus("#chart-cpu .plot")
    for _ in range(3):
        tab.page.keyboard.press("+")
    tab.wait_text("#range-note", "every row is a point")
    assert tab.requests == [f"{page}"]
    assert tab.violations() == []


def test_a_long_run_is_reduced_and_keeps_its_peak(home: Home, tab: Tab, tmp_path: Path) -> None:
    count, start = 70_000, time.time() - 70_000
    page = exported(home, recorded(home, count, start=start), tmp_path)
    assert page.stat().st_size < 6_000_000
    go(tab, page)
    assert "70,000" in tab.text("#facts")
    assert f"peak {PEAK_CORES} cores" in tab.all_text("#text-cpu")
    moment = start + count * PEAK_AT
    tab.page.goto(f"file://{page}?from={moment - 300}&to={moment + 300}")
    tab.page.wait_for_selector("body[data-ready]")
    assert f"peak {PEAK_CORES} cores" in tab.all_text("#text-cpu")
    assert "in a band from minimum to maximum" in tab.text("#range-note")


def test_names_in_the_file_are_text_never_markup(home: Home, tab: Tab, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!--"
    page = exported(home, recorded(home, 60, start=time.time() - 60, job_name=hostile, tags={hostile: 1}), tmp_path)
    go(tab, page)
    assert tab.text("h1") == hostile
    assert len(re.findall("<script", page.read_text(encoding="utf-8"))) == 3
