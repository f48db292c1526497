"""What schedulers and launchers tell becomes metadata and tags."""

from pathlib import Path

import pytest

from streaming.collect.limits import limits
from streaming.collect.scheduler import placement

NOWHERE = Path("/nonexistent")


def test_outside_of_any_scheduler_nothing_is_told() -> None:
    where = placement({"PATH": "/bin", "RANK": "3", "WORLD_SIZE": "8"}, NOWHERE)
    assert (where.metadata, where.tags, where.local_rank) == ({}, {}, None)


# As a real SLURM 22.05 gave them (srun of two tasks on one node in a batch job; the same with an array, a second component).
STEP = {
    "SLURM_JOB_ID": "39",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_CPUS_ON_NODE": "4",
    "SLURM_NODEID": "0",
    "SLURMD_NODENAME": "n1",
    "SLURM_JOB_NODELIST": "n1",
}
ARRAY = {**STEP, "SLURM_JOB_ID": "42", "SLURM_ARRAY_JOB_ID": "39", "SLURM_ARRAY_TASK_ID": "7"}
HETEROGENEOUS = {
    **STEP,
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_NODELIST": "n[1-5]",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "m1,n[2-3,5]",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "n[1,4]",
}
BATCH = {"SLURM_JOB_ID": "39", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURMD_NODENAME": "n1"}


@pytest.mark.parametrize(
    ("environment", "run_id", "tags"),
    [
        (STEP, "39", {"step": "0", "rank": "1", "local_rank": "1", "world_size": "2", "limit_cpus": "2"}),
        (ARRAY, "39_7", {"step": "0", "array_task": "7", "rank": "1"}),
        (HETEROGENEOUS, "39+1", {"het_group": "1", "rank": "1"}),
        (BATCH, "39", {"step": "batch"}),
        ({**BATCH, "SLURM_RESTART_COUNT": "2"}, "39", {"step": "batch", "attempt": "2"}),
    ],
    ids=["step", "array", "heterogeneous", "batch script", "requeued"],
)
def test_all_of_a_slurm_job_carry_its_id(environment: dict[str, str], run_id: str, tags: dict[str, str]) -> None:
    where = placement(environment, NOWHERE)
    assert where.metadata["external_run_id"] == run_id
    assert where.metadata["orchestrator"] == "slurm"
    assert where.tags == where.tags | {"job": "39", "attempt": "0", "host": "n1"} | tags
    assert where.tags["job"] == "39"


def test_batch_script_is_no_rank_of_the_steps_that_it_starts() -> None:
    where = placement(BATCH, NOWHERE)
    assert where.local_rank is None
    assert "world_size" not in where.tags


def test_job_that_srun_named_after_us_has_no_name() -> None:
    assert "job_name" not in placement({**STEP, "SLURM_JOB_NAME": "tracker-stream"}, NOWHERE).metadata


def test_cpus_of_a_task_are_its_share_of_the_node() -> None:
    uneven = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "8(x2),4", "SLURM_CPUS_ON_NODE": "16"}
    shares = [limits({**uneven, "SLURM_NODEID": str(node)}, NOWHERE)["limit_cpus"] for node in range(3)]
    assert shares == ["2", "2", "4"]
    assert limits({**uneven, "SLURM_CPUS_PER_TASK": "3"}, NOWHERE)["limit_cpus"] == "3"


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
OPEN_MPI |= {"PMIX_RANK": "1", "PMIX_NAMESPACE": "1252720641"}


@pytest.mark.parametrize(
    ("environment", "metadata", "tags"),
    [
        (
            OPEN_MPI,
            {"orchestrator": "openmpi", "external_run_id": "1252720641"},
            {"job": "1252720641", "mpi_job": "1252720641", "rank": "1", "local_rank": "1", "world_size": "2"},
        ),
        (
            {"AIRFLOW_CTX_DAG_ID": "nightly", "AIRFLOW_CTX_TASK_ID": "fit", "AIRFLOW_CTX_TRY_NUMBER": "2"}
            | {"AIRFLOW_CTX_DAG_RUN_ID": "scheduled__2026-11-24"},
            {"orchestrator": "airflow", "job_name": "nightly", "task_name": "fit"}
            | {"external_run_id": "scheduled__2026-11-24"},
            {"job": "scheduled__2026-11-24", "attempt": "1"},
        ),
        (
            {"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "77", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "build"}
            | {"GITHUB_REPOSITORY": "me/it", "GITHUB_WORKFLOW": "ci", "RUNNER_NAME": "r1"},
            {"orchestrator": "github-actions", "external_run_id": "77", "project_name": "me/it", "stage_name": "ci"}
            | {"job_name": "build"},
            {"job": "77", "attempt": "0", "host": "r1"},
        ),
        (
            {"GITLAB_CI": "true", "CI_PIPELINE_ID": "5", "CI_JOB_ID": "51", "CI_JOB_NAME": "fit", "CI_NODE_INDEX": "2"},
            {"orchestrator": "gitlab-ci", "external_run_id": "51", "job_name": "fit"},
            {"job": "5", "array_task": "2"},
        ),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "fit-0-x7", "JOB_NAME": "fit", "NODE_NAME": "w3"}
            | {"JOB_COMPLETION_INDEX": "0"},
            {"orchestrator": "kubernetes", "executor": "kubernetes", "external_run_id": "fit-0-x7", "job_name": "fit"},
            {"job": "fit", "array_task": "0", "host": "w3"},
        ),
        (
            {"JPY_PARENT_PID": "12", "JPY_SESSION_NAME": "/home/ada/look at it.ipynb"},
            {"orchestrator": "jupyter", "job_name": "look at it"},
            {},
        ),
        ({"METAFLOW_RUN_ID": "1795"}, {"orchestrator": "metaflow", "external_run_id": "1795"}, {"job": "1795"}),
        (
            {"TORCHELASTIC_RUN_ID": "abc", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
            {"external_run_id": "abc"},
            {"job": "abc", "rank": "0", "local_rank": "0", "world_size": "1"},
        ),
    ],
    ids=["Open MPI", "Airflow", "GitHub Actions", "GitLab CI", "Kubernetes", "Jupyter", "Metaflow", "torchrun"],
)
def test_every_launcher_names_the_job(
    environment: dict[str, str], metadata: dict[str, str], tags: dict[str, str]
) -> None:
    where = placement(environment, NOWHERE)
    assert (where.metadata, where.tags) == (metadata, tags)


def test_mpi_within_slurm_is_a_part_of_the_slurm_job() -> None:
    where = placement({**BATCH, **OPEN_MPI}, NOWHERE)
    assert (where.metadata["orchestrator"], where.metadata["external_run_id"]) == ("slurm", "39")
    assert (where.tags["job"], where.tags["mpi_job"], where.tags["rank"]) == ("39", "1252720641", "1")


def test_ranks_of_mpich_are_known_by_their_proxy(tmp_path: Path) -> None:
    commands = {
        "self": (20, "python"),
        "20": (10, "bash"),
        "10": (1, "/usr/bin/hydra_pmi_proxy --control-port vm:34131 --x"),
    }
    for pid, (parent, command) in commands.items():
        place = tmp_path / "proc" / pid
        place.mkdir(parents=True)
        (place / "stat").write_text(f"{pid} (a ) b) S {parent} 0 0")
        (place / "cmdline").write_text(command.replace(" ", "\0"))
    where = placement({"PMI_RANK": "2", "PMI_SIZE": "4"}, tmp_path)
    assert (where.metadata["external_run_id"], where.tags["job"]) == ("vm:34131", "vm:34131")


def test_only_the_first_rank_speaks() -> None:
    assert [placement({**STEP, "SLURM_PROCID": rank}, NOWHERE).is_first_rank for rank in "01"] == [True, False]
    assert placement({}, NOWHERE).is_first_rank
    assert placement({**BATCH, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "39"}, NOWHERE).is_first_rank


def test_what_the_user_gave_counts() -> None:
    filled = placement(STEP, NOWHERE).filling({"job_name": "mine", "team": None, "tags": {"rank": "x", "fold": "3"}})
    assert (filled["job_name"], filled["orchestrator"]) == ("mine", "slurm")
    assert (filled["tags"]["rank"], filled["tags"]["fold"], filled["tags"]["job"]) == ("x", "3", "39")
    assert "team" not in filled
    assert placement(STEP, NOWHERE).filling({"tags": ["fold=3"]})["tags"] == ["fold=3"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
            {"rank": "3", "local_rank": "1", "world_size": "4"},
        ),
        (
            {"PMI_RANK": "2", "MPI_LOCALRANKID": "0", "PMI_SIZE": "4"},
            {"rank": "2", "local_rank": "0", "world_size": "4"},
        ),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, {"rank": "2", "world_size": "4"}),
        (
            {
                "TORCHELASTIC_RUN_ID": "none",
                "RANK": "6",
                "LOCAL_RANK": "2",
                "WORLD_SIZE": "8",
                "TORCHELASTIC_RESTART_COUNT": "1",
            },
            {"rank": "6", "local_rank": "2", "world_size": "8", "attempt": "1"},
        ),
    ],
    ids=["Open MPI", "PMI", "PMI without local rank", "torchrun"],
)
def test_ranks_of_other_launchers(environment: dict[str, str], expected: dict[str, str]) -> None:
    assert placement(environment, NOWHERE).tags == expected


def test_the_launcher_nearest_to_the_process_counts() -> None:
    both = {**STEP, "SLURM_JOB_ID": "1", "TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "0"}
    where = placement(both, NOWHERE)
    assert (where.tags["rank"], where.local_rank) == ("5", 0)
    assert where.metadata["external_run_id"] == "1"


def group(root: Path, lines: str, **files: str) -> Path:
    for path, text in {"proc/self/cgroup": lines, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def test_the_least_limit_above_the_process_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/slurm/job/memory.max": "max",
        "sys/fs/cgroup/slurm/memory.max": str(4 << 30),
        "sys/fs/cgroup/memory.max": str(8 << 30),
        "sys/fs/cgroup/slurm/job/cpu.max": "250000 100000",
        "sys/fs/cgroup/slurm/cpu.max": "max 100000",
    }
    root = group(tmp_path, "0::/slurm/job", **files)
    assert limits({}, root) == {"limit_memory_mib": "4096", "limit_cpus": "2.5"}


def test_limits_of_control_groups_version_1(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 << 30),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
    }
    root = group(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/job", **files)
    assert limits({}, root) == {"limit_memory_mib": "2048"}


def test_slurm_limits_count_where_they_are_tighter() -> None:
    assert limits({"SLURM_MEM_PER_NODE": "16000", "SLURM_CPUS_PER_TASK": "4"}, NOWHERE) == {
        "limit_memory_mib": "16000",
        "limit_cpus": "4",
    }
    assert limits({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_ON_NODE": "3"}, NOWHERE)["limit_memory_mib"] == "6000"
    assert limits({"SLURM_MEM_PER_NODE": "0"}, NOWHERE) == {}
