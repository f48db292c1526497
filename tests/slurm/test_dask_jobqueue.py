"""Dask's workers as jobs of a real SLURM: each is a run, all of one scheduler's are a job, and SLURM's own job is told.

And such workers build a lake.
"""

import importlib.util
import re
import sys

import duckdb
import pytest

import streaming
from tests.support.processes import wait_gone
from tests.support.slurm_cluster import User

SCRIPT = """
import subprocess, time
from dask_jobqueue import SLURMCluster
from distributed import Client
from streaming.integrations.dask import TrackerPlugin

SETTINGS = dict(cores=1, processes=1, memory="600MB", job_directives_skip=["--mem"], scheduler_options={"host": "127.0.0.1"})

if __name__ == "__main__":
    with SLURMCluster(**SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(TrackerPlugin(interval=0.2, job_name="fit"))
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=80)
        print("sum", sum(client.gather(client.map(lambda x: x * x, range(100)))), flush=True)
        client.retire_workers(list(client.scheduler_info()["workers"]))
        while subprocess.run(["squeue", "-h", "-t", "running"], capture_output=True).stdout:
            time.sleep(0.2)  # an orderly end: what is cancelled is ended as failed
"""


LAKE_SCRIPT = """
import subprocess, sys
from dask_jobqueue import SLURMCluster
from distributed import Client

SETTINGS = dict(cores=1, processes=1, memory="600MB", job_directives_skip=["--mem"], scheduler_options={"host": "127.0.0.1"})

if __name__ == "__main__":
    with SLURMCluster(**SETTINGS) as cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=80)
        command = ["tracker-stream", "lake", "build", *sys.argv[1:], "--scheduler", cluster.scheduler_address]
        for _ in range(2):
            subprocess.run(command, check=True)
"""
RUN_COUNT = 12


def require_frameworks() -> None:
    for name in ("distributed", "dask_jobqueue"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install '.[frameworks]')")


@pytest.mark.frameworks
@pytest.mark.timeout(240)
def test_workers_that_slurm_starts_build_a_lake_of_the_runs_of_a_job(user: User) -> None:
    require_frameworks()
    command = "tracker-stream run -q -i 0.2 -- sleep 0.5"
    job = user.submit(f"for i in $(seq {RUN_COUNT}); do {command}; done")
    user.wait_for_state(job, "COMPLETED")
    script, lake = user.home.path / "lake.py", user.home.path / "lake"
    script.write_text(LAKE_SCRIPT)
    result = user.run(sys.executable, script, user.home.spool_dir, lake, deadline_s=180)
    assert result.exit_code == 0, result
    assert re.findall(rb"(\d+) runs with", result.stderr) == [b"%d" % RUN_COUNT, b"0"]
    wait_gone(user.marker, 60)
    exported = user.ask("tracker-stream", "export", str(job), "-f", "jsonl")
    rows = duckdb.sql(f"SELECT count(*) FROM read_parquet('{lake}/rows/*/*/*.parquet')").fetchall()
    assert rows == [(len(exported.splitlines()),)]
    assert len(streaming.runs(lake)) == RUN_COUNT


@pytest.mark.frameworks
@pytest.mark.timeout(240)
def test_workers_that_slurm_starts_are_runs_of_one_job(user: User) -> None:
    require_frameworks()
    script = user.home.path / "fit.py"
    script.write_text(SCRIPT)
    result = user.run(sys.executable, script, deadline_s=180)
    assert b"sum 328350" in result.stdout, result
    wait_gone(user.marker, 60)
    runs = user.runs()
    assert len(runs) == 2
    tags = [run["metadata"]["tags"] for run in runs]
    assert len({one["job"] for one in tags}) == 1
    assert {run["metadata"]["orchestrator"] for run in runs} == {"slurm"}
    assert len({run["metadata"]["external_run_id"] for run in runs}) == 2
    assert {one["host"] for one in tags} <= set(user.cluster.nodes)
    assert [run["run_status"] for run in runs] == ["finished", "finished"]
