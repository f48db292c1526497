"""What a real SLURM tells: ranks, steps, array tasks, attempts and components carry the id of their job."""

from typing import Any

from spool import directory
from tests.support.processes import eventually, wait_gone
from tests.support.slurm_cluster import User

RUN = "tracker-stream run -q --mode offline -i 0.1 --"


def metadata(user: User) -> list[dict[str, Any]]:
    """Of all runs, ordered by what tells them apart."""
    found = [run["metadata"] for run in user.runs()]
    return sorted(
        found, key=lambda one: [one["tags"].get(key, "") for key in ("array_task", "step", "attempt", "rank")]
    )


def columns(user: User, *names: str) -> list[tuple[str, ...]]:
    return [tuple(one["tags"].get(name, "-") for name in names) for one in metadata(user)]


def test_ranks_steps_and_batch_script_of_a_job(user: User) -> None:
    job = user.submit(
        f"{RUN} true; srun -n4 {RUN} true; srun -n1 -N1 -c2 {RUN} true",
        "--nodes=2",
        "--ntasks-per-node=2",
        "-J",
        "train",
    )
    user.wait_for_state(job, "COMPLETED")
    first, second = user.cluster.nodes
    assert columns(user, "job", "step", "rank", "world_size", "host", "limit_cpus") == [
        (str(job), "0", "0", "4", first, "1"),
        (str(job), "0", "1", "4", first, "1"),
        (str(job), "0", "2", "4", second, "1"),
        (str(job), "0", "3", "4", second, "1"),
        (str(job), "1", "0", "1", first, "2"),
        (str(job), "batch", "-", "-", first, "2"),
    ]
    assert {(one["job_name"], one["external_run_id"], one["orchestrator"]) for one in metadata(user)} == {
        ("train", str(job), "slurm")
    }
    wait_gone(user.marker)


def test_tasks_of_an_array(user: User) -> None:
    job = user.submit(f"srun {RUN} true", "--array=3,5")
    user.wait_for_state(job, "COMPLETED")
    assert [one["external_run_id"] for one in metadata(user)] == [f"{job}_3", f"{job}_5"]
    assert columns(user, "job", "array_task") == [(str(job), "3"), (str(job), "5")]
    wait_gone(user.marker)


def test_components_of_a_heterogeneous_job(user: User) -> None:
    job = user.submit(f"srun --het-group=0,1 {RUN} true", "--ntasks=1", ":", "--ntasks=1")
    user.wait_for_state(job, "COMPLETED")
    assert sorted(one["external_run_id"] for one in metadata(user)) == [f"{job}+0", f"{job}+1"]
    assert {one["tags"]["job"] for one in metadata(user)} == {str(job)}
    wait_gone(user.marker)


def test_attempts_of_a_requeued_job(user: User) -> None:
    job = user.submit(f"echo $SLURM_RESTART_COUNT; srun {RUN} sh -c '[ -n \"$SLURM_RESTART_COUNT\" ] || sleep 600'")
    eventually(lambda: len(directory.spool_paths(user.spool_dir)) == 1, 60)
    user.ask("scontrol", "requeue", str(job))
    user.wait_for_state(job, "COMPLETED")
    assert columns(user, "job", "attempt") == [(str(job), "0"), (str(job), "1")]
    wait_gone(user.marker)


def test_ranks_of_mpirun_within_a_job(user: User) -> None:
    job = user.submit(f"mpirun -n 2 {RUN} true", "--ntasks=2", OMPI_MCA_rmaps_base_oversubscribe="1")
    user.wait_for_state(job, "COMPLETED")
    assert columns(user, "job", "rank", "world_size") == [(str(job), "0", "2"), (str(job), "1", "2")]
    assert len({one["tags"]["mpi_job"] for one in metadata(user)}) == 1
    wait_gone(user.marker)


def test_one_rank_of_a_step_tells_for_all(user: User) -> None:
    job = user.submit("srun -n4 tracker-stream run --mode offline -i 0.1 -- true", "--ntasks=4", "-J", "train")
    user.wait_for_state(job, "COMPLETED")
    said = [line for line in user.output(job).splitlines() if line.startswith("tracker-stream:")]
    assert sum("recording true as run" in line for line in said) == 1
    assert f"(rank 0 of 4, job {job})" in said[0]
    assert said[-1] == f"tracker-stream:   all ranks: tracker-stream status {job}"
    assert f"to deliver: tracker-stream drain {job}" in said[-2]
    table = user.ask("tracker-stream", "status").splitlines()
    assert [line.split()[:4] for line in table[1:2]] == [[str(job), "train", "(4", "runs)"]]
    wait_gone(user.marker)
