"""A job's page, and the comparison of runs, in a browser."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.streaming.server.conftest import Service
from tests.streaming.server.web.runs import Runs
from tests.streaming.server.web.tab import Tab

pytestmark = pytest.mark.xdist_group("pages of job")


def taken(tab: Tab, name: str, tmp_path: Path) -> None:
    """A picture to look at: kept below PICTURES_DIR where that is set."""
    tab.page.screenshot(path=Path(os.environ.get("PICTURES_DIR", tmp_path)) / f"{name}.png", full_page=True)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_job_is_one_page_by_mouse_and_by_keyboard(
    open_tab: Callable[..., Tab], runs: Runs, width: int, scheme: str, tmp_path: Path
) -> None:
    runs.job("39", ranks=32, straggler=5)
    tab = open_tab(width=width, scheme=scheme)
    tab.go("/job?id=39").wait_until("document.body.dataset.ready === 'true'")
    facts = tab.text("#facts")
    assert "Runs 33" in facts
    assert "Nodes 4" in facts
    assert tab.text("#state") == "finished"
    assert tab.page.locator("#nodes tr").count() == 4
    assert "16 cores" in tab.text("#nodes tr:nth-child(2)"), "the sum of eight ranks of two cores"
    assert tab.violations() == []
    assert not tab.is_scrolling_sideways()
    cpu = tab.page.locator("#heats canvas").first
    assert "Highest: rank 0 with 2" in (cpu.get_attribute("aria-label") or "")
    cpu.focus()
    for _ in range(6):
        tab.page.keyboard.press("ArrowDown")
    tab.wait_text("#spoken", "rank 5, n0")
    assert tab.all_text("#spoken").endswith("0.1 cores")
    tab.page.keyboard.press("End")
    tab.wait_text("#spoken", "between attempts")
    taken(tab, f"job-{width}-{scheme}", tmp_path)
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url(re.compile("/run/[0-9a-f]+$"))


def test_thousand_ranks_are_one_answer_and_each_has_its_row(
    tab: Tab, runs: Runs, service: Service, tmp_path: Path
) -> None:
    runs.job("40", ranks=1000, straggler=777)
    other = service.app.state.tokens.add("somebody else")
    assert service.get("/jobs?id=40", token=other).status_code == 404
    tab.go("/job?id=40").wait_until("document.body.dataset.ready === 'true'")
    assert len([path for path in tab.requests if path.startswith(("/jobs", "/runs"))]) == 1
    dark = """() => {
        const canvas = document.querySelector("#heats canvas");
        const strip = canvas.getContext("2d").getImageData(Math.round(canvas.width / 2), 0, 1, canvas.height).data;
        return Array.from({length: canvas.height}, (_, y) => strip[4 * y + 3]).flatMap((alpha, y) => alpha < 128 ? [y] : []);
    }"""
    tab.wait_until("document.querySelector('#heats canvas').height >= 1000")
    faint = tab.page.evaluate(dark)
    assert 777 in faint
    assert len(faint) < 5, "the straggler, and the last rank between its attempts"
    taken(tab, "job-1000", tmp_path)


def test_a_jobs_pictures_are_zoomed_by_mouse_and_keyboard_and_say_what_to_ask_for(
    open_tab: Callable[..., Tab], runs: Runs, tmp_path: Path
) -> None:
    limits = {"limit_cpus": "16", "limit_memory_mib": "65536"}
    for rank in range(3):
        runs.finished(900, tags={"job": "42", "rank": str(rank), "host": "n0", **limits})
    tab = open_tab(width=1400)
    tab.go("/job?id=42").wait_until("document.body.dataset.ready === 'true'")
    assert "of 16 CPUs" in tab.text("#facts")
    assert "ask for --cpus-per-task=" in tab.text("#facts")
    assert "Limit: 16 cores" in tab.all_text("#text-cpu")
    assert tab.text("#range-note").startswith("15 min")
    box = tab.page.locator("#heats canvas").first.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 5)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 5)
    tab.page.mouse.up()
    tab.wait_text("#range-note", "1 min 3")
    tab.wait_series(3)
    assert {series["points"][0] for series in tab.series_asked()} == {"120"}
    taken(tab, "job-zoomed", tmp_path)
    tab.page.locator("#heats canvas").last.focus()
    tab.page.keyboard.press("-")
    tab.wait_text("#range-note", "3 min")
    tab.page.focus("#chart-memory .plot")
    tab.page.keyboard.press("0")
    tab.wait_text("#range-note", "15 min")


def test_runs_are_compared_from_their_start_and_by_the_clock(
    open_tab: Callable[..., Tab], runs: Runs, tmp_path: Path
) -> None:
    for rank in range(2):
        runs.finished(300, tags={"job": "41", "rank": str(rank)}, started_at=1_790_000_000 + 600 * rank)
    tab = open_tab(width=1400)
    tab.go("/job?id=41").wait_until("document.body.dataset.ready === 'true'")
    tab.page.check("#runs tr:nth-child(1) input")
    assert tab.page.is_hidden("#compare")
    tab.page.check("#runs tr:nth-child(2) input")
    tab.page.click("#compare")
    tab.wait_until("document.body.dataset.ready === 'true'")
    assert tab.page.locator("#chart-cpu .legend li").count() == 2
    assert tab.text("#range-text") == "+0 s – +4 min 59 s"
    tab.page.focus("#chart-cpu .plot")
    tab.page.keyboard.press("Home")
    tab.wait_text("#spoken", "+0 s: train-large")
    assert "no data" not in tab.all_text("#spoken")
    assert tab.violations() == []
    taken(tab, "compare", tmp_path)
    tab.page.click("#by-clock")
    tab.wait_for(lambda: "+" not in tab.text("#range-text"), "the clock")
    tab.page.focus("#chart-cpu .plot")
    tab.page.keyboard.press("Home")
    tab.wait_text("#spoken", "no data")
    tab.page.set_viewport_size({"width": 390, "height": 800})
    assert not tab.is_scrolling_sideways()
