"""What schedulers and launchers tell becomes metadata and tags."""

from pathlib import Path

import pytest

from streaming.collect.scheduler import limits, placement

NOWHERE = Path("/nonexistent")


def test_outside_of_any_scheduler_nothing_is_told() -> None:
    where = placement({"PATH": "/bin", "RANK": "3", "WORLD_SIZE": "8"}, NOWHERE)
    assert (where.metadata, where.tags, where.local_rank) == ({}, {}, None)


def test_slurm_array_task_is_named_by_array_and_index() -> None:
    slurm = {
        "SLURM_JOB_ID": "4712",
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURMD_NODENAME": "node03",
        "SLURM_RESTART_COUNT": "2",
    }
    where = placement(slurm, NOWHERE)
    assert where.metadata == {"orchestrator": "slurm", "external_run_id": "4711_7", "job_name": "train"}
    assert where.tags == {"rank": "5", "local_rank": "1", "world_size": "8", "host": "node03", "attempt": "2"}
    assert where.local_rank == 1


def test_slurm_job_that_was_never_restarted_is_attempt_0() -> None:
    where = placement({"SLURM_JOB_ID": "4712"}, NOWHERE)
    assert where.metadata["external_run_id"] == "4712"
    assert where.tags == {"attempt": "0"}


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
    both = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"} | {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "5",
        "LOCAL_RANK": "1",
    }
    where = placement(both, NOWHERE)
    assert (where.tags["rank"], where.local_rank) == ("5", 1)
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
