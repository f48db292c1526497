"""Fault 40 on a real cluster: what delivers dies with the job that started it, and the other jobs of the node go on."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.conftest import GetCluster
from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.processes import eventually, kill_marked, marked, wait_gone
from tests.support.programs import recorded
from tests.support.slurm_cluster import User

TRACKED = "tracker-stream run -q -i 0.1 --upload-interval 1 --"


@pytest.mark.timeout(200)
def test_fault_40_delivery_goes_on_when_the_job_that_started_it_is_cancelled(
    user_anywhere: User, far_end: FarEnd, tmp_path: Path
) -> None:
    user = user_anywhere
    user.settings |= {**far_end.environment(), "TRACKER_STREAM_LINGER": "5"}
    place = f"--nodelist={user.cluster.nodes[0]}"
    until = user.home.path / "enough"
    first = user.submit(f"srun {TRACKED} sh -c 'echo up; exec sleep 600'", place)
    eventually(lambda: "up" in user.output(first), 60)
    far_end.journal.wait_for_count("register", 1, 60)
    waiting = f"{TRACKED} sh -c 'echo up; until [ -e {until} ]; do sleep 0.1; done'"
    others = [user.submit(f"srun {waiting}", place), user.submit(waiting, place)]
    eventually(lambda: all("up" in user.output(job) for job in others), 60)
    far_end.journal.wait_for_count("register", 3, 60)
    user.cancel(first)
    user.wait_over(first)
    delivered = far_end.journal.count("put")
    far_end.journal.wait_for_count("put", delivered + 4, 60)  # the rows of both go on reaching the store
    user.ask("touch", until)
    user.wait_over(*others)
    eventually(lambda: user.product("drain").exit_code == 0, 60)
    wait_gone(user.marker, 60)

    endings = {int(run["metadata"]["tags"]["job"]): (run["run_status"], run["exit_code"]) for run in user.runs()}
    assert {job: endings[job] for job in others} == dict.fromkeys(others, ("finished", 0))
    assert endings[first][0] == "failed"
    assert len(far_end.runs) == 3, "a run was registered twice"
    finishes = Counter(entry.run_id for entry in far_end.journal.requests("finish") if entry.status == 200)
    assert set(finishes.values()) == {1}, finishes
    for run in user.runs():
        copied = tmp_path / Path(run["path"]).name  # ours: the product refuses a spool of another user
        shutil.copyfile(run["path"], copied)
        copied.chmod(0o600)
        oracle.judge(far_end.evidence(run["run_id"]), recorded(copied), run_status=run["run_status"])


@pytest.mark.timeout(200)
@pytest.mark.parametrize("proctrack", ["linuxproc", "pgid"])
def test_nothing_of_ours_is_seen_a_minute_after_a_job_that_could_not_deliver(
    clusters: GetCluster, proctrack: str, marker: str, far_end: FarEnd
) -> None:
    """Where SLURM does not end what has left its job's tree; without a limit of the user's own."""
    user = clusters(proctrack).user(marker)
    user.settings |= far_end.environment()
    far_end.down()
    job = user.submit("srun tracker-stream run -q -i 0.1 -- sleep 1")
    user.wait_for_state(job, "COMPLETED", deadline_s=100)
    try:
        eventually(lambda: not marked(marker), 60, lambda: str(marked(marker)))
    finally:
        kill_marked(marker)
