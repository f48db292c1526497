"""Jobs as people see them: one line in `status`, one page in the browser; and a node that an epilog leaves clean."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.streaming.server.conftest import Service
from tests.streaming.server.web.conftest import launched
from tests.streaming.server.web.tab import Tab
from tests.support.far_end import FarEnd
from tests.support.processes import ROOT, eventually, wait_gone
from tests.support.slurm_cluster import Cluster, User, why_impossible

RUN = "tracker-stream run -q --mode offline -i 0.2 --"


@pytest.mark.timeout(300)
def test_each_job_is_one_line_and_one_page_and_all_its_rows_are_there(
    user: User, service: Service, tmp_path: Path
) -> None:
    first = f'[ -n "$SLURM_RESTART_COUNT" ] && exec srun {RUN} true; srun {RUN} sh -c "echo up; sleep 600"'
    requeued = user.submit(first, "-J", "again")
    jobs = {
        requeued: "again (2 runs, 2 attempts)",
        user.submit(
            f"srun {RUN} true", "-N2", "--ntasks-per-node=8", "--mem=4000", "-J", "ranks"
        ): "ranks (16 runs, 2 nodes)",
        user.submit(f"srun {RUN} true", "--array=1-8", "-J", "sweep"): "sweep (8 runs, 8 array tasks)",
        user.submit(f"srun {RUN} true; srun {RUN} true", "-J", "steps"): "steps (2 runs)",
    }
    eventually(lambda: "up" in user.output(requeued), 90, lambda: user.output(requeued))
    user.ask("scontrol", "requeue", str(requeued))
    for job in jobs:
        user.wait_for_state(job, "COMPLETED")
    wait_gone(user.marker, 60)
    shown = user.ask("tracker-stream", "status", COLUMNS="200").splitlines()
    for job, expected in jobs.items():
        (line,) = [line for line in shown if line.startswith(f"{job} ")]
        assert all(part in line for part in expected.strip(")").split(", ")), line
    assert "28 runs" in shown[-1]
    recorded = sum(run["rows"]["recorded"] for run in user.runs())
    environment = {**address_of(service), "TRACKER_STREAM_LINGER": "2"}
    for job in jobs:
        drained = user.product("drain", str(job), **environment)
        assert drained.exit_code == 0, drained
    found = service.get("/runs?limit=100").json()["runs"]
    assert len(found) == 28
    assert all(run["ended_at"] for run in found)
    assert sum(run["row_count"] for run in found) == recorded > 28
    look_at(
        service, tmp_path, list(jobs.values()), list(map(str, jobs)), Path(os.environ.get("PICTURES_DIR", tmp_path))
    )
    assert user.product("status", "--check").exit_code == 0
    wait_gone(user.marker, 60)


def address_of(service: Service) -> dict[str, str]:
    return {
        "SENTINEL_API_URL": service.url,
        "SENTINEL_API_TOKEN": service.token,
        "SENTINEL_S3_ENDPOINT_URL": service.s3.endpoint_url or "",
    }


def look_at(service: Service, home: Path, names: list[str], jobs: list[str], pictures: Path) -> None:
    """The list has a line for each job, with its curve; each job's page has a row for each place, and tells of its nodes."""
    with (
        launched(home) as browser,
        closing(Tab.open(browser, service.url, width=1400, height=900, scheme="light")) as tab,
    ):
        tab.log_in(service.token)
        tab.go("/").page.screenshot(path=pictures / "slurm-list.png", full_page=True)
        assert tab.page.locator("#rows tr").count() == len(jobs)
        places = {"again": 1, "ranks": 16, "sweep": 8, "steps": 2}
        for name, job in zip((text.split()[0] for text in names), jobs, strict=True):
            assert f"job {job}, " in tab.text("#rows")
            tab.go(f"/job?id={job}").wait_until("document.body.dataset.ready === 'true'")
            tab.page.screenshot(path=pictures / f"slurm-{name}.png", full_page=True)
            picture = tab.page.locator("#heats canvas").first.get_attribute("aria-label") or ""
            assert f"of {places[name]} rows over time" in picture
            assert tab.page.locator("#nodes tr").count() == (2 if name == "ranks" else 1)
            assert tab.violations() == []
            tab.go("/")
        assert tab.errors == []


def epilog() -> str:
    """The line of the integrations' README."""
    text = (ROOT / "streaming" / "integrations" / "README.md").read_text()
    return str(re.search(r"^setpriv --reuid.*$", text, re.MULTILINE).group())  # type: ignore[union-attr]


def test_epilog_delivers_what_a_killed_job_left(tmp_path: Path, far_end: FarEnd, marker: str) -> None:
    if reason := why_impossible():
        pytest.skip(reason)
    tmp_path.chmod(0o755)
    script = tmp_path / "epilog"
    with Cluster("linuxproc", Epilog=str(script)) as cluster:
        user = cluster.user(marker)
        configuration = user.home.path / ".config" / "tracker-stream" / "tracker-stream.toml"
        token = user.home.path / "token"
        own_home = re.sub(r'HOME="\$\(.*\)"', f"HOME={user.home.path}", epilog())
        settings = {**far_end.environment(), **user.home.settings()}
        exports = "\n".join(f"export {name}={text}" for name, text in settings.items() if name != "SENTINEL_API_TOKEN")
        script.write_text(f"#!/bin/bash\nexport PATH={Path(sys.executable).parent}:$PATH\n{exports}\n{own_home}\n")
        script.chmod(0o755)
        user.ask("mkdir", "-p", configuration.parent)
        user.ask(
            "sh",
            "-c",
            f"umask 077; printf %s {far_end.token} >{token}; echo 'token_file = \"{token}\"' >{configuration}",
        )
        job = user.submit(f"srun {RUN} sh -c 'echo up; exec sleep 600'")
        eventually(lambda: "up" in user.output(job), 60)
        user.kill(job)
        user.wait_over(job)
        run = far_end.wait_finished(deadline_s=60)
        assert (run.finish or {})["run_status"] == "failed"
        wait_gone(marker, 60)
