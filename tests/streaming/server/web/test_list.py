"""The list of runs and the login, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from streaming.server.storage.database import ServerDatabase
from tests.streaming.server.conftest import Service
from tests.streaming.server.web.runs import Runs
from tests.streaming.server.web.tab import Tab

pytestmark = pytest.mark.xdist_group("pages of list")


def jobs(tab: Tab) -> list[str]:
    """Names in the list, from top to bottom."""
    return tab.page.locator("#rows .job a").all_inner_texts()


def wait_jobs(tab: Tab, expected: list[str]) -> None:
    tab.wait_for(lambda: jobs(tab) == expected, str(expected))


def test_login_is_asked_for_and_leads_to_where_one_wanted_to_go(
    open_tab: Callable[..., Tab], service: Service, runs: Runs
) -> None:
    run_id = runs.finished(60)
    tab = open_tab(log_in=False)
    tab.begin(f"/run/{run_id}?from=1&to=2")
    tab.page.wait_for_url(re.compile(r"/login\?next=/"))
    tab.page.fill("#token", "wrong")
    tab.page.press("#token", "Enter")
    tab.wait_text("#problem", "The token is not valid.")
    assert tab.violations() == []
    tab.page.fill("#token", service.token)
    tab.page.press("#token", "Enter")
    tab.page.wait_for_url(f"**/run/{run_id}?from=1&to=2")
    tab.page.click("#logout")
    tab.page.wait_for_url("**/login")
    tab.begin("/")
    tab.page.wait_for_url(re.compile(r"/login\?next=/"))


def test_a_token_sees_its_own_runs_only(open_tab: Callable[..., Tab], service: Service, runs: Runs) -> None:
    run_id = runs.finished(60)
    tab = open_tab(log_in=False)
    tab.log_in(service.app.state.tokens.add("somebody else"))
    tab.go("/")
    assert tab.text("#count") == "0 runs"
    assert "No run yet" in tab.text("#empty")
    tab.page.goto(f"{tab.url}/run/{run_id}")
    tab.wait_text("#problem", "There is no such run.")
    tab.errors.clear()  # the browser notes the 404


def test_a_line_tells_what_a_person_asks(tab: Tab, runs: Runs) -> None:
    runs.finished(900, exit_code=137)
    tab.go("/")
    line = tab.text("#rows tr")
    for expected in ("train-large", "failed", "protein-folding", "fold=3", "optimizer=adamw", "node-17", "137", "900"):
        assert expected in line
    assert "15 min" in line


def test_filter_sort_and_address_agree(tab: Tab, runs: Runs) -> None:
    runs.finished(60, job_name="alpha", tags={"kind": "red"})
    runs.finished(180, job_name="beta", tags=["blue"])
    runs.inline(30, job_name="gamma")
    tab.go("/")
    assert sorted(jobs(tab)) == ["alpha", "beta", "gamma"]
    tab.page.click("th[data-column=rows] button")
    wait_jobs(tab, ["beta", "alpha", "gamma"])
    assert tab.page.get_attribute("th[data-column=rows]", "aria-sort") == "descending"
    tab.page.click("th[data-column=rows] button")
    wait_jobs(tab, ["gamma", "alpha", "beta"])
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("kind=red")
    wait_jobs(tab, ["alpha"])
    tab.wait_until("new URLSearchParams(location.search).toString().includes('red')")  # a part of it finds alpha, too
    assert tab.text("#count") == "1 run"
    tab.page.reload()
    wait_jobs(tab, ["alpha"])
    assert tab.page.input_value("#search") == "kind=red"
    tab.page.fill("#search", "")
    tab.page.select_option("#state-filter", "failed")
    tab.wait_text("#empty", "No run fits.")


def test_run_has_the_name_that_the_command_gave_it(tab: Tab, runs: Runs) -> None:
    run_id = runs.finished(60, job_name="alpha", tags={"run": "48eef9a2", "fold": "3"})
    runs.finished(60, job_name="beta")
    tab.go("/?q=48eef9a2")
    wait_jobs(tab, ["alpha"])
    assert tab.text("#rows .job .sub") == "48eef9a2"
    assert tab.text("#rows .tags") == "fold=3"
    tab.go(f"/run/{run_id}")
    assert "48eef9a2" in tab.text("#metadata")
    assert tab.text("#tags") == "fold=3"


def test_a_new_run_appears_and_nothing_else_moves(tab: Tab, runs: Runs) -> None:
    runs.finished(60, job_name="first")
    tab.go("/")
    tab.page.focus("#rows .job a")
    tab.page.evaluate("document.querySelector('#rows tr').mark = 'the same node'")
    runs.live(60, job_name="second")
    tab.wait_until("document.querySelectorAll('#rows tr').length === 2")
    node = "[...document.querySelectorAll('#rows tr')].find(tr => tr.textContent.includes('first'))"
    assert tab.page.evaluate(f"{node}.mark") == "the same node"
    assert tab.page.evaluate(f"{node}.contains(document.activeElement)")
    assert "second" in tab.all_text("#changes")


def test_a_run_gone_silent_says_so_and_for_how_long(tab: Tab, runs: Runs, service: Service) -> None:
    run_id = runs.live(0)
    with ServerDatabase(service.app.state.runs._database._path).transaction() as db:
        moment = "2026-01-01T00:00:00.000000+00:00"
        db.conn.execute("UPDATE runs SET registered_at = ? WHERE run_id = ?", (moment, run_id))
        db.conn.execute("UPDATE listing SET started_at = 0, silent_at = 0 WHERE run_id = ?", (run_id,))
    tab.go("/")
    assert "silent for" in tab.text("#rows .state")
    tab.go(f"/run/{run_id}")
    assert "silent for" in tab.text("#state")
    assert "No row has arrived yet." in tab.text("#no-rows")


def test_names_from_clients_are_text_never_markup(tab: Tab, runs: Runs) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    run_id = runs.finished(60, job_name=hostile, tags={hostile: hostile}, host_hostname=hostile, project_name=hostile)
    tab.go("/")
    assert jobs(tab) == [hostile]
    tab.go(f"/run/{run_id}")
    assert tab.text("h1") == hostile
    assert tab.page.locator("img").count() == 0


def test_many_runs_are_shown_in_pages(tab: Tab, runs: Runs) -> None:
    for number in range(53):
        runs.live(0, job_name=f"job-{number:02d}")
    tab.go("/")
    assert len(jobs(tab)) == 50
    assert tab.text("#page-text") == "1 to 50 of 53"
    tab.page.click("#later")
    tab.wait_until("document.querySelectorAll('#rows tr').length === 3")
    assert tab.text("#page-text") == "51 to 53 of 53"
    tab.page.click("#earlier")
    tab.wait_until("document.querySelectorAll('#rows tr').length === 50")


def test_jobs_are_one_line_each_sorted_by_what_they_took_and_can_be_unfolded(tab: Tab, runs: Runs) -> None:
    for rank in range(3):
        runs.finished(120, exit_code=rank // 2, tags={"job": "39", "rank": str(rank)}, job_name="many")
    runs.inline(30, job_name="single")
    tab.go("/")
    wait_jobs(tab, ["single", "many"])
    assert tab.text("#rows tr:nth-child(2) .job").endswith("job 39, 3 runs")
    assert (tab.page.get_attribute("#rows tr:nth-child(2) .spark path", "d") or "").count("L") > 40
    assert tab.text("#rows tr:nth-child(2) .status") == "2 finished, 1 failed"
    assert tab.page.locator("#rows .spark path[d^=M]").count() == 2  # a run's, and the job's
    tab.page.click("[data-column=memory] button")
    wait_jobs(tab, ["many", "single"])
    assert "GiB" in tab.text("#rows tr:nth-child(1)")
    tab.page.fill("#search", "39")
    wait_jobs(tab, ["many"])
    tab.page.uncheck("#fold")
    tab.wait_for(lambda: len(tab.page.locator("#rows tr").all()) == 3, "each run by itself")
    assert tab.page.get_attribute("#rows tr:nth-child(1) .sub a", "href") == "/job?id=39"
    for line in (1, 3):
        tab.page.check(f"#rows tr:nth-child({line}) .choice")
    tab.page.click("#compare")
    tab.wait_until("document.body.dataset.ready === 'true'")
    assert tab.page.locator("#runs tr").count() == 2
