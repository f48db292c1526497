"""The README's SLURM recipe, under a script that imitates the scheduler's variables and signals."""

import re
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from spool import RunState, Spool, directory, queries
from spool.errors import SpoolRefused
from tests.streaming.cli.conftest import AsProgram
from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.processes import ROOT, Home, clean_environment, eventually, wait_gone
from tests.support.slurm import Job, token_file

TRAINING = "import time, pathlib\npathlib.Path('started').touch()\nwhile True: time.sleep(0.1)\n"


def recipe() -> str:
    """The block of the README that begins as a batch script does."""
    blocks = re.findall(
        r"^```bash\n(#!.*?)^```$", (ROOT / "streaming/cli/README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (found,) = [block for block in blocks if "#SBATCH" in block]
    return str(found)


@pytest.fixture
def environment(home: Home, marker: str, far_end: FarEnd) -> dict[str, str]:
    """As on a node: no token in the environment, the command on the path; faster than the defaults, for the test."""
    settings = far_end.environment()
    token_file(home, settings.pop("SENTINEL_API_TOKEN"))
    (home.path / "train.py").write_text(TRAINING)
    faster = {"TRACKER_INTERVAL": "0.1", "TRACKER_UPLOAD_INTERVAL": "1", "TRACKER_STREAM_LINGER": "5"}
    made = clean_environment(home, marker, **settings, **faster)
    return {**made, "PATH": f"{Path(sys.executable).parent}:{made['PATH']}"}


def spools(home: Home) -> Path:
    return home.path / "tracker-spools"


def row_count(home: Home) -> int:
    for path in directory.spool_paths(spools(home)):
        with suppress(SpoolRefused), closing(Spool(path)) as spool:  # just being created
            return queries.counts(spool.connection).recorded
    return 0


def test_preempted_job_is_delivered_as_failed_with_143(
    home: Home, environment: dict[str, str], far_end: FarEnd, marker: str
) -> None:
    with Job.submit(recipe(), home, environment, marker) as job:
        far_end.journal.wait_for_count("put", 1, 60)
        assert job.preempt(), "something was left when SIGKILL came"
    run = far_end.wait_finished()
    oracle.live(far_end.evidence(), run_status="failed", exit_code=143)
    assert (run.metadata["external_run_id"], run.metadata["orchestrator"]) == ("4711", "slurm")
    assert (run.metadata["job_name"], run.metadata["project_name"]) == ("train", "vision")
    tags = run.metadata["tags"]
    assert {"rank": "0", "local_rank": "0", "world_size": "1", "host": "node07", "attempt": "1"}.items() <= tags.items()
    assert int(tags["limit_memory_mib"]) <= 4000
    wait_gone(marker)


def test_preempted_job_without_network_leaves_its_rows_for_the_login_node(
    home: Home, environment: dict[str, str], far_end: FarEnd, marker: str
) -> None:
    far_end.down()
    with Job.submit(recipe(), home, environment, marker) as job:
        eventually(lambda: row_count(home) >= 3, 60)
        job.preempt(grace_s=30)
    (path,) = directory.spool_paths(spools(home))
    with closing(Spool(path)) as spool:
        run = spool.run()
        assert (run.state, run.exit_code, run.run_status) == (RunState.ENDED, 143, "failed")
    rows = row_count(home)
    far_end.up()
    drained = AsProgram(environment)("drain", "--spool-dir", str(spools(home)), SENTINEL_API_TOKEN=far_end.token)
    assert drained.exit_code == 0
    assert len(oracle.delivered(far_end.evidence())) == rows
    oracle.live(far_end.evidence(), run_status="failed", exit_code=143)


def test_killed_without_warning_is_ended_by_the_login_nodes_drain(
    home: Home, environment: dict[str, str], far_end: FarEnd, marker: str
) -> None:
    with Job.submit(recipe(), home, {**environment, "TRACKER_STREAM_MODE": "offline"}, marker) as job:
        eventually(lambda: row_count(home) >= 3, 60)
        job.preempt(grace_s=0.0)
    rows = row_count(home)
    drained = AsProgram(environment)("drain", "--spool-dir", str(spools(home)), SENTINEL_API_TOKEN=far_end.token)
    assert drained.exit_code == 0
    assert len(oracle.delivered(far_end.evidence())) == rows
    finish = far_end.run().finish
    assert finish is not None
    assert finish["run_status"] == "failed"
