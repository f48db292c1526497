"""Each recipe of the integrations' README, in the framework that it is for: the real one, where it is installed.

pip install '.[frameworks]' beside the tests' own tools, or: EXTRA=frameworks scripts/test -m frameworks
"""

import importlib.util
import os
import re
import shutil
import sys
from contextlib import closing
from pathlib import Path

import pytest

from spool import Run, Spool, directory
from tests.support.far_end import FarEnd
from tests.support.processes import ROOT, Home, ProgramResult, clean_environment, start_program, wait_gone

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(300)]
README = ROOT / "streaming" / "integrations" / "README.md"


def needs(*modules: str) -> None:
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install '.[frameworks]')")


def recipe(first_line: str) -> str:
    """The block of the README that begins with this comment."""
    (found,) = re.findall(rf"^```python\n# {first_line}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def environment(home: Home, marker: str) -> dict[str, str]:
    """A user's, with our command and their frameworks on the path; nothing may leave the machine."""
    quiet = {"METAFLOW_USER": "tester", "USER": "tester", "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}
    made = clean_environment(home, marker, TRACKER_STREAM_LINGER="5", **quiet)
    return {**made, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{made['PATH']}"}


def run(home: Home, environment: dict[str, str], *command: str | Path) -> ProgramResult:
    with start_program(command, environment, cwd=home.path) as program:
        result = program.wait(200)
    assert result.exit_code == 0, result
    return result


def runs(home: Home) -> list[Run]:
    """In the order in which they began."""
    found = []
    for path in directory.spool_paths(home.spool_dir):
        with closing(Spool(path)) as spool:
            found.append(spool.run())
    return sorted(found, key=lambda one: one.started_at)


def test_workers_of_dask_are_a_job(home: Home, environment: dict[str, str], marker: str) -> None:
    needs("distributed")
    script = home.path / "job.py"
    script.write_text(recipe("dask"))
    assert b"328350" in run(home, environment, sys.executable, script).stdout
    wait_gone(marker, 60)
    found = runs(home)
    assert [one.run_status for one in found] == ["finished", "finished"]
    assert len({one.metadata["tags"]["job"] for one in found}) == 1
    assert {one.metadata["tags"]["worker"] for one in found} == {"0", "1"}
    assert {one.metadata["project_name"] for one in found} == {"nightly"}


def test_each_task_of_dask_is_found_in_the_rows_of_its_worker(
    home: Home, environment: dict[str, str], marker: str
) -> None:
    needs("distributed")
    script = home.path / "job.py"
    script.write_text(recipe("dask, and what each task took"))
    told = run(home, environment, sys.executable, script).stdout.decode().splitlines()
    wait_gone(marker, 60)
    first, second, third = sorted(float(line.split()[-2]) for line in told)
    assert [line.rpartition("-")[0] for line in told] == ["work"] * 3
    assert first + 50 < second < third - 50, "100, 200 and 300 MB, beside what the worker itself takes"


KILLED = """
import os, signal, time
from distributed import Client, LocalCluster
from streaming.integrations.dask import TrackerPlugin

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        client.register_plugin(TrackerPlugin(interval=0.1))
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pids = list(client.run(os.getpid, on_error="ignore").values())
            if pids and pids != [pid]:
                break
            time.sleep(0.1)
        print(client.submit(lambda: 6 * 7).result())
"""


def test_worker_of_dask_that_is_killed_and_its_successor_are_two_runs(
    home: Home, environment: dict[str, str], marker: str
) -> None:
    needs("distributed")
    script = home.path / "job.py"
    script.write_text(KILLED)
    assert b"42" in run(home, environment, sys.executable, script).stdout
    wait_gone(marker, 60)
    first, second = runs(home)
    assert second.run_status == "finished"
    assert first.run_status in (None, "failed")
    assert first.metadata["tags"]["worker"] == second.metadata["tags"]["worker"] == "0"


def test_step_of_metaflow_is_a_run_of_its_flow(home: Home, environment: dict[str, str], marker: str) -> None:
    needs("metaflow")
    flow = home.path / "train.py"
    flow.write_text(recipe("metaflow"))
    run(home, environment, sys.executable, flow, "run")
    wait_gone(marker, 60)
    (found,) = runs(home)
    told = found.metadata
    assert (told["orchestrator"], told["job_name"], told["stage_name"]) == ("metaflow", "Train", "start")
    assert told["external_run_id"] == f"Train/{told['tags']['job']}/start/{told['task_name']}"
    assert told["tags"]["attempt"] == "0"


def test_resource_trackers_decorator_streams_through_us(
    home: Home, environment: dict[str, str], far_end: FarEnd, marker: str
) -> None:
    needs("metaflow")
    flow = home.path / "train.py"
    flow.write_text(recipe("metaflow with resource-tracker's decorator"))
    run(home, {**environment, **far_end.environment()}, sys.executable, flow, "run")
    told = far_end.wait_finished()
    assert told.metadata["orchestrator"] == "metaflow"
    assert told.metadata["job_name"] == "Train"
    assert len(directory.spool_paths(home.spool_dir)) == 1
    wait_gone(marker, 60)


def test_commands_of_snakemake_are_a_job(home: Home, environment: dict[str, str], marker: str) -> None:
    needs("snakemake")
    (home.path / "Snakefile").write_text(recipe("Snakefile"))
    run(home, environment, sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all")
    assert (home.path / "a.txt").read_text() == "a\n"
    wait_gone(marker, 60)
    found = runs(home)
    assert [(one.run_status, one.metadata["orchestrator"]) for one in found] == [("finished", "snakemake")] * 2
    assert len({one.metadata["tags"]["job"] for one in found}) == 1


NOTEBOOK = """
import nbformat
from nbclient import NotebookClient

cells = ["import streaming", "with streaming.track(interval=0.1): sum(range(3_000_000))", "streaming.track()(sum)([1])"]
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(book, kernel_name="python3", timeout=120).execute()
"""


def test_cells_of_a_notebook_are_a_job(home: Home, environment: dict[str, str], marker: str) -> None:
    needs("nbclient", "ipykernel")
    script = home.path / "execute.py"
    script.write_text(NOTEBOOK)
    run(home, environment, sys.executable, script)
    wait_gone(marker, 60)
    found = [one.metadata for one in runs(home)]
    assert len(found) == 2
    assert {told["orchestrator"] for told in found} == {"jupyter"}
    (job,) = {told["tags"]["job"] for told in found}
    assert {told["external_run_id"] for told in found} == {job}


@pytest.mark.parametrize("launcher", ["openmpi", "mpich"])
def test_ranks_of_an_mpi_launcher_are_a_job(
    home: Home, environment: dict[str, str], marker: str, launcher: str
) -> None:
    mpirun = shutil.which(f"mpirun.{launcher}")
    if mpirun is None:
        pytest.skip(f"{launcher} is not installed (scripts/test installs it when run as root)")
    as_root = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    tracked = ["tracker-stream", "run", "-i", "0.1", "--", "true"]
    result = run(home, {**environment, **as_root}, mpirun, "-n", "3", *tracked)
    wait_gone(marker, 60)
    found = [one.metadata for one in runs(home)]
    assert sorted(told["tags"]["rank"] for told in found) == ["0", "1", "2"]
    assert {told["orchestrator"] for told in found} == {launcher}
    (job,) = {told["tags"]["job"] for told in found}
    assert result.stderr.count(b"recording true as run") == 1
    assert f"status {job}".encode() in result.stderr
