"""The page of a run, in a browser: charts, summary, objects, keys, and how little of a long run it asks for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streaming.read.export.html import COLUMNS
from streaming.server.storage.database import ServerDatabase
from tests.streaming.server.conftest import Service
from tests.streaming.server.web.rows import PEAK_AT, PEAK_CORES
from tests.streaming.server.web.runs import Runs
from tests.streaming.server.web.tab import Tab

pytestmark = pytest.mark.xdist_group("pages of run")

PICTURES = ["cpu", "memory", "disk", "network", "gpu", "vram"]
MOST_WIRE_BYTES = 500_000


def drag(tab: Tab, picture: str, start: float, end: float) -> None:
    """Across a chart's plotted area, from one share of its width to another."""
    box = tab.page.locator(f"#chart-{picture} .u-over").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + box["width"] * start, y)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * (start + end) / 2, y, steps=3)
    tab.page.mouse.move(box["x"] + box["width"] * end, y, steps=3)
    tab.page.mouse.up()


def test_every_picture_is_there_with_its_figures_in_words(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(900)}")
    titles = tab.page.locator("#charts h3").all_inner_texts()
    assert titles == ["CPU", "Memory", "Disk", "Network", "GPU", "GPU memory"]
    assert re.search(rf"System: average 9\.\d+ cores, peak {PEAK_CORES} cores", tab.all_text("#text-cpu"))
    assert "Limit: 16 cores (CPUs of the job or the host)" in tab.all_text("#text-cpu")
    assert "Limit: 64 GiB (memory of the job or the host)" in tab.all_text("#text-memory")
    assert "Limit: 2 GPUs" in tab.all_text("#text-gpu")
    assert "MB/s" in tab.all_text("#text-disk")
    for picture in PICTURES:
        assert tab.page.evaluate(f"document.querySelector('#chart-{picture} canvas').width") > 100


def test_gpus_are_drawn_where_the_rows_or_the_host_speak_of_one(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.inline(30)}")
    assert tab.page.locator("#chart-gpu").count() == 1
    tab.go(f"/run/{runs.finished(60, drop='gpu', host_gpu_count=0)}")
    assert tab.page.locator("#charts h3").all_inner_texts() == ["CPU", "Memory", "Disk", "Network"]


def test_summary_has_average_peak_total_and_how_much_of_the_limit(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(900)}")
    cpu, memory, disk = (tab.text(f"#summary tr:nth-child({line})") for line in (1, 2, 3))
    assert cpu.startswith("CPU 9.")
    assert cpu.endswith("16 cores 94 %")  # of the process: the system's peak is higher
    assert "GiB" in memory
    assert memory.endswith("%")
    assert disk.startswith("Disk read")
    assert "MB/s" in disk
    assert "GB" in disk
    assert tab.page.get_attribute("#limits", "aria-pressed") == "true"
    tab.go(f"/run/{runs.finished(900, tags={'limit_cpus': '80', 'limit_memory_mib': '65536'})}")
    assert tab.text("#summary tr:nth-child(1)").endswith("80 cores 19 %")
    assert tab.page.get_attribute("#limits", "aria-pressed") == "false", "the limit would flatten the curve"


def test_metadata_command_and_csv(tab: Tab, runs: Runs, service: Service) -> None:
    run_id = runs.finished(120)
    tab.go(f"/run/{run_id}")
    metadata = tab.text("#metadata")
    for expected in ("python train.py --epochs 40 --out 'runs/large 1'", "AMD EPYC 9354P", "64 GiB", "slurm", run_id):
        assert expected in metadata
    with tab.page.expect_download() as download:
        tab.page.click("#csv")
    assert download.value.path().read_bytes() == service.get(f"/runs/{run_id}/csv").content
    assert download.value.path().read_bytes().count(b"\n") == 121


def test_objects_are_listed_with_checksums_and_what_is_missing(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(600, missing=(3, 4, 8))}")
    assert tab.text("#objects-note").startswith("7 objects")
    assert "3 sequence numbers are missing" in tab.text("#objects-note")
    assert tab.page.locator("#objects tr.gap").all_inner_texts() == ["4–5\t2 objects missing", "9\tmissing"]
    first = tab.text("#objects tr:first-child")
    assert first.startswith("1 00000001-")
    assert " 60 " in first
    assert "verified" in tab.all_text("#objects tr:first-child")


def test_zoom_asks_again_for_that_range_and_moves_every_chart(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(3600, rows_per_object=600)}")
    whole = tab.text("#range-text")
    assert "a point is" in tab.text("#range-note")
    before = len(tab.series_asked())
    drag(tab, "memory", 0.5, 0.6)
    tab.wait_series(before + 1)
    tab.wait_text("#range-note", "every row is a point")
    asked = tab.series_asked()[-1]
    assert float(asked["to"][0]) - float(asked["from"][0]) == pytest.approx(360, rel=0.05)
    assert "from=" in tab.page.url
    assert tab.text("#range-text") != whole
    zoomed = tab.text("#range-text")
    tab.page.reload()
    tab.page.wait_for_selector("body[data-ready]")
    assert tab.text("#range-text") == zoomed
    tab.page.click("#zoom-all")
    tab.wait_text("#range-text", whole)
    assert "from=" not in tab.page.url
    tab.page.go_back()
    tab.wait_text("#range-text", zoomed)


def test_hover_shows_the_same_moment_in_every_chart(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(600)}")
    box = tab.page.locator("#chart-cpu .u-over").bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    tab.wait_for(lambda: tab.all_text("#chart-cpu .at") != "", "the time of the cursor")
    moments = {tab.all_text(f"#chart-{picture} .at") for picture in PICTURES}
    assert len(moments) == 1
    tab.page.mouse.move(5, 5)
    tab.wait_for(lambda: tab.all_text("#chart-disk .at") == "", "no cursor")


def test_charts_can_be_read_and_zoomed_by_keys(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(3600, rows_per_object=600)}")
    tab.page.focus("#chart-cpu .plot")
    tab.page.keyboard.press("End")
    last = tab.all_text("#spoken")
    assert "System" in last
    assert "cores" in last
    tab.page.keyboard.press("ArrowLeft")
    assert tab.all_text("#spoken") != last
    whole, before = tab.text("#range-text"), len(tab.series_asked())
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("+")
    tab.wait_series(before + 1)
    assert tab.text("#range-text") != whole
    tab.page.keyboard.press("0")
    tab.wait_text("#range-text", whole)


def test_values_are_there_as_a_table(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(900)}")
    tab.page.click("#values summary")
    tab.wait_until("document.querySelectorAll('#values-body tr').length > 20")
    assert tab.page.locator("#values-head th").count() == 15
    assert "cores" in tab.text("#values-body tr:first-child")


def test_a_line_can_be_hidden_and_limits_left_out(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(300)}")
    button = tab.page.locator("#chart-cpu .legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    tab.page.click("#limits")
    assert tab.page.get_attribute("#limits", "aria-pressed") == "false"


def test_missing_rows_are_a_gap_in_the_line(tab: Tab, runs: Runs) -> None:
    tab.go(f"/run/{runs.finished(600, missing=(4, 5))}")
    tab.page.focus("#chart-cpu .plot")
    tab.page.keyboard.press("Home")
    for _ in range(10):  # each a twentieth of 480 rows and a gap: the tenth is behind four objects of 60 rows
        assert "no data" not in tab.all_text("#spoken")
        tab.page.keyboard.press("Shift+ArrowRight")
    assert "System no data" in tab.all_text("#spoken")


def test_a_run_without_rows_says_so(tab: Tab, runs: Runs, service: Service) -> None:
    run_id = runs.live(0)
    tab.go(f"/run/{run_id}")
    assert tab.text("#no-rows") == "No row has arrived yet."
    assert tab.text("#state") == "waiting for rows"
    body = {"data_source": "s3", "data_uris": [], "run_status": "failed"}
    assert service.post(f"/runs/{run_id}/finish", body).ok
    tab.wait_text("#state", "failed")
    tab.wait_text("#no-rows", "The run has no rows.")


def test_a_store_that_does_not_answer_is_told_and_passes(tab: Tab, runs: Runs, service: Service) -> None:
    run_id = runs.live(120)
    tab.go(f"/run/{run_id}")
    with ServerDatabase(service.app.state.runs._database._path).transaction() as db:
        db.conn.execute("UPDATE runs SET run_id = run_id || 'x'")
    tab.wait_text("#problem", "There is no such run.")
    with ServerDatabase(service.app.state.runs._database._path).transaction() as db:
        db.conn.execute("UPDATE runs SET run_id = substr(run_id, 1, 32)")
    tab.wait_until("document.getElementById('problem').hidden")
    tab.errors.clear()  # the browser notes each 404


def test_a_page_opened_during_an_outage_fills_itself_later(tab: Tab, runs: Runs) -> None:
    run_id = runs.live(120)
    tab.page.route("**/series?*", lambda route: route.abort())
    tab.page.goto(f"{tab.url}/run/{run_id}")
    tab.wait_text("#problem", "The server does not answer. Trying again.")
    tab.page.unroute("**/series?*")
    tab.page.wait_for_selector("body[data-ready]")
    assert tab.page.locator("#charts canvas").count() == 6
    assert tab.page.evaluate("document.getElementById('problem').hidden")
    tab.errors.clear()  # the browser notes what was aborted


@pytest.mark.timeout(300)  # making 600,000 rows takes a loaded machine long
def test_a_week_of_seconds_costs_few_requests_and_little_transfer(tab: Tab, runs: Runs) -> None:
    count = 600_000
    start = time.time() - count
    run_id = runs.finished(count, rows_per_object=10_000, started_at=start, only=("timestamp", *COLUMNS))
    began = time.monotonic()
    tab.go(f"/run/{run_id}")
    ready_s = time.monotonic() - began
    tab.page.wait_for_load_state("networkidle")
    print(f"600,000 rows: charts after {ready_s:.2f} s, {tab.wire_bytes:,} bytes, {len(tab.requests)} requests")
    assert "600,000" in tab.text("#facts")
    assert f"peak {PEAK_CORES} cores" in tab.all_text("#text-cpu")  # a single second of a week
    assert tab.wire_bytes < MOST_WIRE_BYTES
    assert len(tab.series_asked()) == 1
    assert len(tab.requests) <= 30
    moment = start + count * PEAK_AT
    tab.page.goto(f"{tab.url}/run/{run_id}?from={moment - 60:.0f}&to={moment + 60:.0f}")
    tab.page.wait_for_selector("body[data-ready]")
    assert "every row is a point" in tab.text("#range-note")
    assert f"peak {PEAK_CORES} cores" in tab.all_text("#text-cpu")


def test_owner_edits_shares_and_deletes_and_a_guest_only_looks(
    open_tab: Callable[..., Tab], runs: Runs, tmp_path: Path
) -> None:
    run_id = runs.finished(120)
    tab = open_tab().go(f"/run/{run_id}")
    tab.page.click("#edit")
    tab.page.fill("#title-text", "The best <b>one</b>")
    tab.page.fill("#notes-text", "with a new optimizer")
    assert tab.violations() == []
    tab.page.screenshot(path=Path(os.environ.get("PICTURES_DIR", tmp_path)) / "edit.png")
    tab.page.click("#edit-dialog .primary")
    tab.wait_text("#job", "The best <b>one</b>")
    assert tab.text("#notes") == "with a new optimizer"
    tab.page.click("#share")
    tab.page.click("#share-make")
    tab.wait_until("document.getElementById('share-link').value !== ''")
    path = tab.page.input_value("#share-link").removeprefix(tab.url)
    tab.page.keyboard.press("Escape")
    stranger = open_tab(log_in=False)
    stranger.page.goto(stranger.url + path)
    stranger.page.wait_for_selector("body[data-ready]")
    assert stranger.text("#job") == "The best <b>one</b>"
    assert stranger.page.locator("#charts h3").count() > 2
    for hidden in ("#changes", "#csv", "#crumbs", "#logout"):
        assert stranger.page.is_hidden(hidden)
    assert stranger.violations() == []
    tab.page.click("#delete")
    assert "120 rows and its 2 objects in S3" in tab.text("#delete-text")
    tab.page.keyboard.press("Escape")
    tab.page.click("#delete")
    tab.page.click("#delete-dialog .bad")
    tab.page.wait_for_url(f"{tab.url}/")
    tab.wait_until("document.getElementById('count').textContent !== ''")
    assert tab.text("#count") == "0 runs"
