"""For everyone: light and dark, from a phone to a wall, by ear; and the picture of the README."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.streaming.server.web.runs import Runs
from tests.streaming.server.web.tab import Tab

pytestmark = pytest.mark.xdist_group("pages of everyone")

README_PICTURE = Path(__file__).parent / "run-page.png"
MOST_PICTURE_BYTES = 200_000


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark"), (3840, "light")])
def test_nothing_serious_for_axe_and_nothing_scrolls_sideways(
    open_tab: Callable[..., Tab], runs: Runs, width: int, scheme: str
) -> None:
    run_id = runs.finished(600, missing=(2,), exit_code=1)
    runs.live(60, job_name="with-a-name-so-long-that-it-must-break-somewhere-" * 3)
    tab = open_tab(width=width, height=900, scheme=scheme)
    for path in ("/", "/login", f"/run/{run_id}"):
        tab.go(path)
        if path.startswith("/run/"):
            tab.page.click("#values summary")
        assert tab.violations() == [], path
        assert not tab.is_scrolling_sideways(), path


LOOKED_AT = [(width, scheme) for width in (400, 1400) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKED_AT if "PICTURES_DIR" in os.environ else [(1400, "light")])
def test_pictures_can_be_taken(
    open_tab: Callable[..., Tab], runs: Runs, scheme: str, width: int, tmp_path: Path
) -> None:
    """To look at: with PICTURES_DIR, in all forms and kept there; UPDATE_PICTURE=1 makes the README's anew."""
    run_id = runs.finished(20_000, rows_per_object=2000)
    runs.finished(900, job_name="evaluate", exit_code=137, tags={"fold": 3})
    runs.live(300, job_name="train-small", tags={"fold": 4})
    tab = open_tab(width=width, height=900, scheme=scheme)
    place = Path(os.environ.get("PICTURES_DIR", tmp_path))
    for name, path in (("list", "/"), ("run", f"/run/{run_id}")):
        tab.go(path).page.wait_for_load_state("load")
        picture = place / f"{name}-{width}-{scheme}.png"
        tab.page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 10_000
    if (width, scheme) == (1400, "light"):
        _take_readme_picture(tab, tmp_path / "run-page.png")


def _take_readme_picture(tab: Tab, picture: Path) -> None:
    tab.page.set_viewport_size({"width": 1200, "height": 1040})
    tab.page.evaluate("scrollTo(0, 0)")
    tab.page.screenshot(path=picture)
    assert picture.stat().st_size < MOST_PICTURE_BYTES
    if os.environ.get("UPDATE_PICTURE"):
        shutil.copyfile(picture, README_PICTURE)
