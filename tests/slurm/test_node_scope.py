"""One tracker for all that a step runs on a node: each process is counted, once, and none of ours."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import GetCluster
from tests.support.processes import wait_gone
from tests.support.slurm_cluster import User

BURNING = """
import os, subprocess, sys, time

def used():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

held = bytearray(80 << 20)
if os.environ["SLURM_LOCALID"] == "1":
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"])
while used() < 3.0:
    sum(range(100_000))
time.sleep(0.7)
print("used", used(), flush=True)
time.sleep(1.0 if os.environ["SLURM_LOCALID"] == "0" else 2.5)
"""


def sums(user: User, run: dict[str, Any]) -> tuple[float, float, int]:
    """CPU seconds, peak memory and number of processes of a run, from its rows."""
    header, *rows = (line.split(",") for line in user.ask("tracker-stream", "export", run["run"]).splitlines())
    names = [name.strip('"') for name in header]
    columns = {
        name: [float(row[names.index(name)].strip('"') or 0) for row in rows]
        for name in names
        if name.startswith("process_")
    }
    cpu = sum(columns["process_utime"]) + sum(columns["process_stime"])
    return cpu, max(columns["process_memory_mib"]), int(max(columns["process_children"])) + 1


@pytest.mark.parametrize("proctrack", ["cgroup", "linuxproc"])
def test_one_tracker_records_all_ranks_of_a_node(clusters: GetCluster, marker: str, proctrack: str) -> None:
    user = clusters(proctrack).user(marker)
    program = user.home.path / "burning.py"
    program.write_text(BURNING)
    command = f"tracker-stream run -q --mode offline -i 0.25 --scope node -- {Path(sys.executable).name} {program}"
    job = user.submit(f"srun {command}", "--nodes=2", "--ntasks-per-node=2", "--mem=2000")
    user.wait_for_state(job, "COMPLETED", deadline_s=110)
    used = [float(line.split()[1]) for line in user.output(job).splitlines() if line.startswith("used")]
    runs = user.runs()
    assert [run["run_status"] for run in runs] == ["finished", "finished"]
    assert {run["metadata"]["tags"]["host"] for run in runs} == set(user.cluster.nodes)
    assert all("rank" not in run["metadata"]["tags"] for run in runs)
    recorded = [sums(user, run) for run in runs]
    assert sum(cpu for cpu, _, _ in recorded) == pytest.approx(sum(used), rel=0.02)
    for _, memory_mib, processes in recorded:
        assert memory_mib == pytest.approx(2 * 88, rel=0.15)
        assert processes == 3  # two ranks, one of which had a child; nothing of ours
    wait_gone(user.marker)


def test_rank_that_fails_ends_the_recording_of_its_node_at_once(user: User) -> None:
    command = "tracker-stream run -q --mode offline -i 0.2 --scope node -- sh -c 'exit 3'"
    job = user.submit(f"srun {command}")
    user.wait_for_state(job, "FAILED")
    assert [(run["run_status"], run["exit_code"]) for run in user.runs()] == [("failed", 3)]
    wait_gone(user.marker)
