"""The harness itself: jobs run, on nodes that differ, as a user who is not root, and leave nothing behind."""

from tests.support.processes import eventually, wait_gone
from tests.support.slurm_cluster import User


def test_job_runs_on_two_nodes_and_the_login_node_differs(user: User) -> None:
    job = user.submit("srun -l hostname", "--nodes=2", "--ntasks=2")
    user.wait_for_state(job, "COMPLETED")
    hosts = {line.split()[1] for line in user.output(job).splitlines()}
    assert hosts == set(user.cluster.nodes)
    assert user.ask("hostname") == user.cluster.login_node


def test_job_of_a_plain_user_can_use_the_product(user_anywhere: User) -> None:
    user = user_anywhere
    job = user.submit("id -un; srun --ntasks=2 tracker-stream run -- true", "--ntasks=2", TRACKER_INTERVAL="0.1")
    user.wait_for_state(job, "COMPLETED")
    assert user.output(job).splitlines()[0] == "hpc"
    assert len(list(user.spool_dir.glob("*.spool"))) == 2
    wait_gone(user.marker)  # what looks for the host's facts may outlive the job


def test_cancelled_job_ends(user: User) -> None:
    job = user.submit("sleep 600")
    user.wait_for_state(job, "RUNNING")
    user.cancel(job)
    user.wait_for_state(job, "CANCELLED")


def test_requeued_job_begins_again(user: User) -> None:
    job = user.submit("echo attempt ${SLURM_RESTART_COUNT:-0}; sleep 600")
    eventually(lambda: "attempt 0" in user.output(job), 60)
    user.ask("scontrol", "requeue", str(job))
    eventually(lambda: "attempt 1" in user.output(job), 60)
    user.cancel(job)
    user.wait_over(job)
