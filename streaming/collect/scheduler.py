"""What a scheduler or launcher tells about a run: SLURM, torchrun, Open MPI, PMI; and the limits it was given.

Pure functions of an environment and of the files below a root, so that no cluster is needed to test them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_MIB = 1 << 20
_NO_LIMIT_BYTES = 1 << 60  # cgroup v1 writes a number near 2**63 where v2 writes "max"

# Who knows best comes first: the launcher nearest to the process. RANK and the like are common words, so torchrun's
# count only beside a variable that nobody else sets.
_SOURCES: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("TORCHELASTIC_RUN_ID", ("RANK", "LOCAL_RANK", "WORLD_SIZE")),
    (
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ),
    ("PMIX_RANK", ("PMIX_RANK", "SLURM_LOCALID", "SLURM_NTASKS")),
    ("PMI_RANK", ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE")),
    ("SLURM_PROCID", ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")),
)


@dataclass(frozen=True)
class Placement:
    """Where in a job a process is. `metadata` and `tags` fill in what the user did not give."""

    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    local_rank: int | None = None


def placement(environment: Mapping[str, str], root: Path = Path("/")) -> Placement:
    """What the environment and the control groups tell; empty outside of any scheduler and without limits."""
    ranks = _ranks(environment)
    tags = {**ranks, **_attempt(environment), **limits(environment, root)}
    if host := environment.get("SLURMD_NODENAME"):
        tags["host"] = host
    return Placement(_metadata(environment), tags, int(ranks["local_rank"]) if "local_rank" in ranks else None)


def _metadata(environment: Mapping[str, str]) -> dict[str, str]:
    if job_id := environment.get("SLURM_JOB_ID"):
        array_job_id, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        found = {
            "orchestrator": "slurm",
            "external_run_id": f"{array_job_id}_{index}" if array_job_id and index else job_id,
            "job_name": environment.get("SLURM_JOB_NAME", ""),
        }
        return {name: text for name, text in found.items() if text}
    run_id = environment.get("TORCHELASTIC_RUN_ID", "none")
    return {} if run_id in ("", "none") else {"external_run_id": run_id}


def _ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """rank, local_rank and world_size, all from the same source."""
    for sign, variables in _SOURCES:
        if sign in environment:
            named = zip(("rank", "local_rank", "world_size"), variables, strict=True)
            return {name: environment[key] for name, key in named if environment.get(key, "").isdigit()}
    return {}


def _attempt(environment: Mapping[str, str]) -> dict[str, str]:
    """How often it was started again: 0 the first time."""
    for variable in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        if environment.get(variable, "").isdigit():
            return {"attempt": environment[variable]}
    return {"attempt": "0"} if "SLURM_JOB_ID" in environment else {}


def limits(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Memory and CPUs that the job may use: the least that a control group or SLURM says."""
    found: dict[str, str] = {}
    memory_mib = [*_slurm_memory_mib(environment), *(number // _MIB for number in _memory_bytes(root))]
    if memory_mib:
        found["limit_memory_mib"] = str(min(memory_mib))
    cpus = [*_slurm_cpus(environment), *_cpu_quotas(root)]
    if cpus:
        found["limit_cpus"] = f"{min(cpus):g}"
    return found


def _slurm_memory_mib(environment: Mapping[str, str]) -> Iterator[int]:
    per_node, per_cpu = environment.get("SLURM_MEM_PER_NODE", ""), environment.get("SLURM_MEM_PER_CPU", "")
    cpus = environment.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit() and int(per_node):  # 0: all that the node has
        yield int(per_node)
    if per_cpu.isdigit() and cpus.isdigit() and int(per_cpu) * int(cpus):
        yield int(per_cpu) * int(cpus)


def _slurm_cpus(environment: Mapping[str, str]) -> Iterator[float]:
    text = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE", "")
    if text.isdigit() and int(text):
        yield float(text)


def _memory_bytes(root: Path) -> Iterator[int]:
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(group / name)
            if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
                yield int(text)


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """This process's control groups for a controller, from its own up to the top: a limit above binds too."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.strip("/")
        while True:
            yield group
            if group == top or top not in group.parents:
                break
            group = group.parent


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
