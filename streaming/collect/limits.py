"""What a job may use: the memory and CPUs that its scheduler gave it, and that its control groups allow. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_MIB = 1 << 20
_NO_LIMIT_BYTES = 1 << 60  # cgroup v1 writes a number near 2**63 where v2 writes "max"
_TASKS = re.compile(
    r"(\d+)(?:\(x(\d+)\))?"
)  # SLURM_STEP_TASKS_PER_NODE, e.g. "8(x2),4": 8 on two nodes, 4 on the third


def limits(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """`limit_memory_mib` of all that the job runs on this node, `limit_cpus` of this process: the least that is said."""
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
    """A task's own CPUs, where they were asked for; else its share of those that its step has on this node."""
    per_task, on_node = environment.get("SLURM_CPUS_PER_TASK", ""), environment.get("SLURM_CPUS_ON_NODE", "")
    if per_task.isdigit() and int(per_task):
        yield float(per_task)
    elif on_node.isdigit() and int(on_node):
        yield max(1.0, int(on_node) // _tasks_on_node(environment))


def _tasks_on_node(environment: Mapping[str, str]) -> int:
    """How many tasks of this step share the node; 1 for a batch script, which is alone until it starts steps."""
    counts: list[int] = []
    for count, times in _TASKS.findall(environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * min(int(times or 1), 1 << 20)
    index = environment.get("SLURM_NODEID", "0")
    return counts[int(index)] or 1 if index.isdigit() and int(index) < len(counts) else 1


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
