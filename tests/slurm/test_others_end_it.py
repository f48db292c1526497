"""Runs of a real cluster that others end: killed on their node, or ended by a person's word while they live."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.processes import eventually, wait_gone
from tests.support.programs import recorded
from tests.support.slurm_cluster import User

TRACKED = "tracker-stream run -q -i 0.1 --upload-interval 1 --"
ENDLESS = "sh -c 'echo up; exec sleep 600'"
PASS_TIME = """
import sys
from contextlib import closing
from pathlib import Path
from spool import Spool
with closing(Spool(Path(sys.argv[1]))) as spool, spool.connection.transaction() as db:
    db.execute("UPDATE batch SET appended_at = appended_at - ?", (float(sys.argv[2]),))
"""


@pytest.fixture(autouse=True)
def _online(user: User, far_end: FarEnd) -> None:
    user.settings |= {**far_end.environment(), "TRACKER_STREAM_LINGER": "5"}


def begun(user: User, job: int) -> None:
    eventually(lambda: "up" in user.output(job), 90, lambda: user.output(job))
    eventually(lambda: any(run["rows"]["recorded"] > 3 for run in user.runs()), 60)


def judge(user: User, far_end: FarEnd, tmp_path: Path, run: dict[str, Any]) -> None:
    """All that its spool holds is at the service, under its true end."""
    copied = tmp_path / Path(run["path"]).name  # ours: the product refuses a spool of another user
    shutil.copyfile(run["path"], copied)
    copied.chmod(0o600)
    registered = next(each for each in far_end.runs if each.run_id == run["run_id"])
    evidence = far_end.evidence(registered.run_id)
    oracle.judge(evidence, recorded(copied), run_status=run["run_status"], exit_code=run["exit_code"])


def test_run_of_a_cancelled_job_is_ended_by_the_login_node_at_once(user: User, far_end: FarEnd, tmp_path: Path) -> None:
    """`scancel` of a job without srun, all of whose processes are killed before they can say a word."""
    job = user.submit(f"{TRACKED} {ENDLESS}")
    begun(user, job)
    user.cancel(job, "--signal=KILL", "--full")
    user.kill(job)
    user.wait_over(job)
    wait_gone(user.marker, 60)
    eventually(lambda: user.product("drain").exit_code == 0, 30, lambda: str(user.product("status")))
    assert user.product("status", "--check").exit_code == 0
    (run,) = user.runs()
    assert (run["run_status"], run["exit_code"]) == ("failed", None)
    judge(user, far_end, tmp_path, run)


def test_run_whose_job_goes_on_is_silent_and_then_ended(user: User, far_end: FarEnd, tmp_path: Path) -> None:
    """Its tracker, command and uploader are killed; the job's own script lives, and so SLURM says that the job runs."""
    job = user.submit(f"{TRACKED} {ENDLESS} & echo $$ > script.pid; wait; exec -a script sleep 600")
    begun(user, job)
    (run,) = user.runs()
    script = int((user.home.path / "script.pid").read_text())
    for process in user.processes_of(job):
        if process.pid != script:
            user.ask("kill", "-KILL", str(process.pid))
    assert user.states(job) == {"RUNNING"}
    user.ask("python", "-c", PASS_TIME, run["path"], "240")
    checked = user.product("status", "--check")
    assert checked.exit_code == 3
    assert re.search(rf"silent for 4 min( \d\d s)? on {user.cluster.nodes[0]}".encode(), checked.stdout)
    drained = user.product("drain")
    assert drained.exit_code == 3
    assert b"ended after 5 min of silence" in drained.stdout
    assert far_end.run().finish is None
    user.ask("python", "-c", PASS_TIME, run["path"], "60")
    assert user.product("drain").exit_code == 0
    user.cancel(job)
    wait_gone(user.marker, 60)
    (run,) = user.runs()
    assert run["run_status"] == "failed"
    judge(user, far_end, tmp_path, run)


@pytest.mark.parametrize("says_its_name", [True, False], ids=["by name", "all that wait"])
def test_offline_job_that_the_login_node_ends_while_it_lives_loses_nothing(
    user: User, far_end: FarEnd, tmp_path: Path, says_its_name: bool
) -> None:
    work = "sh -c 'echo up; while [ ! -e go ]; do sleep 0.1; done; exit 7'"
    job = user.submit(f"TRACKER_STREAM_MODE=offline {TRACKED} {work}")
    begun(user, job)
    (first,) = user.runs()
    drained = user.product("drain", "--ended", *([first["run"]] if says_its_name else []))
    assert drained.exit_code == 0
    if says_its_name:
        eventually(lambda: len(user.runs()) == 2 and user.runs()[1]["rows"]["recorded"] > 3, 60)
    (user.home.path / "go").touch()
    user.wait_over(job)
    assert "rows.lost" not in user.output(job)
    assert user.product("drain").exit_code == 0
    wait_gone(user.marker, 60)
    runs = user.runs()
    last = ("failed", 7)
    expected = [("failed", None), last] if says_its_name else [last]
    assert [(run["run_status"], run["exit_code"]) for run in runs] == expected, json.dumps(runs, indent=1)
    for run in runs:
        judge(user, far_end, tmp_path, run)
    assert says_its_name == (runs[-1]["metadata"]["tags"].get("continues") == first["run"].rpartition("-")[2][:8])
