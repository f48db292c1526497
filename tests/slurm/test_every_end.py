"""40 jobs of a real SLURM, ended in every way that it knows: every row of theirs reaches the server, once."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.processes import eventually, wait_gone
from tests.support.programs import recorded
from tests.support.slurm_cluster import OVER, User

TRACKED = "tracker-stream run -q -i 0.2 --upload-interval 2 --"
UNTIL_KILLED = f"{TRACKED} sh -c 'echo up; exec sleep 600'"
UNTIL_USR1 = f"""{TRACKED} sh -c 'trap "exit 10" USR1; echo up; while :; do sleep 0.1; done'"""
TOO_MUCH_MEMORY = (
    f"{TRACKED} python -c 'held = bytearray(900 << 20); print(\"up\", flush=True); import time; time.sleep(600)'"
)

Ending = tuple[str, int | None]  # what the service is told: run_status, exit_code
KILLED: Ending = ("failed", None)


@dataclass(frozen=True)
class Way:
    """One way in which a job ends, and what is told of its runs. `act` ends it, once so many of its programs are up.

    A signal to save comes up to a minute earlier than it was ordered (manual page of sbatch, --signal).
    """

    script: str
    endings: set[Ending]
    job_count: int
    run_count: int = 1  # of each job
    options: tuple[str, ...] = ()
    act: Callable[[User, int], None] | None = None
    ups: int = 1


def cancel(*options: str) -> Callable[[User, int], None]:
    return lambda user, job: user.cancel(job, *options)


def kill_all(user: User, job: int) -> None:
    user.kill(job)


def kill_second_node(user: User, job: int) -> None:
    user.kill(job, node=user.cluster.nodes[1])


def requeue(user: User, job: int) -> None:
    user.ask("scontrol", "requeue", str(job))


WAYS = {
    "ends well": Way(f"srun {TRACKED} true", {("finished", 0)}, 6, 2, ("--ntasks=2",)),
    "ends badly": Way(f"srun {TRACKED} sh -c 'exit 3'", {("failed", 3)}, 3),
    "crashes": Way(f"{TRACKED} sh -c 'kill -SEGV $$'", {("failed", 139)}, 2),
    "array": Way(f"srun {TRACKED} true; srun {TRACKED} true", {("finished", 0)}, 1, 8, ("--array=1-4",)),
    "two nodes": Way(f"srun {TRACKED} true", {("finished", 0)}, 2, 4, ("--nodes=2", "--ntasks=4")),
    "step is cancelled": Way(f"srun {UNTIL_KILLED}", {("failed", 143), KILLED}, 5, act=cancel()),
    "batch script is cancelled": Way(UNTIL_KILLED, {("failed", 143), KILLED}, 5, act=cancel()),
    "all are killed": Way(f"srun {UNTIL_KILLED}", {KILLED}, 4, act=kill_all),
    "one node's are killed": Way(
        f"srun --kill-on-bad-exit {UNTIL_KILLED}",
        {KILLED, ("failed", 143)},
        2,
        4,
        ("--nodes=2", "--ntasks-per-node=2"),
        kill_second_node,
        ups=4,
    ),
    "is told to save": Way(f"srun {UNTIL_USR1}", {("failed", 10)}, 3, act=cancel("--signal=USR1")),
    "is warned of its limit": Way(f"srun {UNTIL_USR1}", {("failed", 10)}, 1, options=("--signal=USR1@20", "--time=2")),
    "time limit": Way(f"srun {UNTIL_KILLED}", {("failed", 143), KILLED}, 2, options=("--time=1",)),
    "time limit without a step": Way(UNTIL_KILLED, {("failed", 143), KILLED}, 1, options=("--time=1",)),
    "requeued": Way(
        f"[ -n \"$SLURM_RESTART_COUNT\" ] && exec srun {TRACKED} true; srun {UNTIL_KILLED}",
        {("failed", 143), KILLED, ("finished", 0)},
        2,
        2,
        act=requeue,
    ),
    "memory limit": Way(f"srun {TOO_MUCH_MEMORY}", {KILLED, ("failed", 137)}, 1, options=("--mem=500",)),
}  # fmt: skip


@pytest.mark.timeout(400)
def test_every_row_of_40_jobs_ended_in_every_way_is_delivered_once(
    user_anywhere: User, far_end: FarEnd, tmp_path: Path
) -> None:
    user = user_anywhere
    user.settings |= {**far_end.environment(), "TRACKER_STREAM_LINGER": "5", "TRACKER_STREAM_KEEP_DAYS": "1"}
    assert sum(way.job_count for way in WAYS.values()) == 40
    jobs = {job: name for name, way in WAYS.items() for job in submitted(user, way)}
    for job, name in jobs.items():
        end(user, job, WAYS[name])
    eventually(lambda: is_over(user, jobs), 150, lambda: user.ask("squeue"))
    eventually(lambda: user.product("drain").exit_code == 0, 100, lambda: str(user.product("status")))
    assert user.product("status", "--check").exit_code == 0
    wait_gone(user.marker, 60)

    runs = by_job(user)
    problems = [problem for job, name in jobs.items() for problem in wrong_ends(name, WAYS[name], runs[str(job)])]
    assert not problems, "\n".join(problems)
    for run in (run for of_job in runs.values() for run in of_job):
        judge(run, far_end, tmp_path)


def submitted(user: User, way: Way) -> Iterator[int]:
    for _ in range(way.job_count):
        yield user.submit(way.script, "--mem=500", *way.options)


def end(user: User, job: int, way: Way) -> None:
    """What SLURM does not do by itself."""
    if way.act is not None:
        eventually(lambda: user.output(job).count("up") >= way.ups, 100, lambda: f"{job}: {user.output(job)}")
        way.act(user, job)


def is_over(user: User, jobs: dict[int, str]) -> bool:
    return {state for job in jobs for state in user.states(job)} <= set(OVER)


def by_job(user: User) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for run in user.runs():
        found[run["metadata"]["tags"]["job"]].append(run)
    return found


def wrong_ends(name: str, way: Way, runs: list[dict[str, Any]]) -> Iterator[str]:
    endings = [(run["run_status"], run["exit_code"]) for run in runs]
    if len(runs) != way.run_count or not set(endings) <= way.endings:
        yield f"{name}: {endings} instead of {way.run_count} of {way.endings}"


def judge(run: dict[str, Any], far_end: FarEnd, tmp_path: Path) -> None:
    """All that its spool ever held is at the service, once, in order, under its true end."""
    copied = tmp_path / Path(run["path"]).name  # ours: the product refuses a spool of another user
    shutil.copyfile(run["path"], copied)
    copied.chmod(0o600)
    oracle.judge(
        far_end.evidence(run["run_id"]), recorded(copied), run_status=run["run_status"], exit_code=run["exit_code"]
    )
