"""All that a job runs on this node: its processes, and what they use together.

They are found by the control group of the job (proctrack/cgroup of SLURM), else by what all of them inherit in their
environment. Our own processes are none of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from streaming.collect.procfs import NO_GPU, cpu_seconds, descendants, io_bytes, memory_kib_of

# What all processes of a start on this node have in common: the first row whose variables are all there.
_IDENTITIES = (
    ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURMD_NODENAME"),
    ("SLURM_JOB_ID", "SLURMD_NODENAME"),
    ("PMIX_NAMESPACE",),
    ("TORCHELASTIC_RUN_ID", "MASTER_PORT"),
)
_OURS = (b"streaming.processes.launch", b"/tracker-stream\0", b"\0streaming\0")
_Use = tuple[float, float, int, int]  # user, system (s), bytes read, written


class JobProcesses:
    """The job that this process is a part of, on this node. False without one."""

    def __init__(self, environment: Mapping[str, str], root: Path = Path("/")) -> None:
        names = next((row for row in _IDENTITIES if all(environment.get(name) for name in row)), ())
        self._signs = [f"{name}={environment[name]}\0".encode() for name in names]
        self._groups = _groups_of_job(environment, root)
        self._root = root
        self._belongs: dict[int, bool] = {}  # by environment, which a process keeps
        self._last: dict[int, tuple[int, _Use]] = {}  # parent and use of each, at the latest measurement
        self._retired: _Use = (0.0, 0.0, 0, 0)

    def __bool__(self) -> bool:
        return bool(self._signs)

    @property
    def key(self) -> str:
        """The same in all processes of the job on this node."""
        return hashlib.sha256(b"".join(self._signs)).hexdigest()[:16]

    def pids(self) -> set[int]:
        """Those that run now."""
        members = self._by_group() or self._by_environment()
        return {pid for pid in members if not self._is_ours(pid)}

    def others(self, than: int) -> set[int]:
        """Those that neither are `than` nor descend from it, nor are what started us all."""
        above = set(_ancestors(os.getpid()))
        return self.pids() - {than, *descendants(than)} - above

    def measure(self, pid: int) -> dict[str, Any]:
        """As `procfs.process_stats`, of all of them: cumulative, also over processes that have ended."""
        timestamp = time.time()
        pids = self.pids()
        now = {each: (_parent(each), (*cpu_seconds(each), *io_bytes(each))) for each in pids}
        for gone in self._last.keys() - pids:
            parent, use = self._last[gone]
            if parent not in pids:  # else it has waited for it, and counts it
                self._retired = _sum([self._retired, use])
        self._last = now
        user, system, read, written = _sum([self._retired, *(use for _, use in now.values())])
        return {
            "timestamp": timestamp,
            "pid": pid,
            "children": max(0, len(pids) - 1),
            "utime": user,
            "stime": system,
            "memory_mib": sum(memory_kib_of(each) for each in pids) / 1024,
            "disk_read_bytes": read,
            "disk_write_bytes": written,
            **NO_GPU,
        }

    def _by_group(self) -> set[int]:
        found: set[int] = set()
        for group in self._groups:
            for place, _, files in os.walk(group):
                if "cgroup.procs" in files:
                    with suppress(OSError, ValueError):
                        found |= set(map(int, Path(place, "cgroup.procs").read_text().split()))
        return found

    def _by_environment(self) -> set[int]:
        listed = {int(name) for name in os.listdir(self._root / "proc") if name.isdigit()}
        self._belongs = {pid: known for pid, known in self._belongs.items() if pid in listed}
        for pid in listed - self._belongs.keys():
            text = b"\0" + self._read(pid, "environ")
            self._belongs[pid] = all(b"\0" + sign in text for sign in self._signs)
        return {pid for pid, belongs in self._belongs.items() if belongs}

    def _is_ours(self, pid: int) -> bool:
        command = self._read(pid, "cmdline")
        return (
            pid == os.getpid() or any(sign in command for sign in _OURS) or (not command) or _is_witness(pid, command)
        )

    def _read(self, pid: int, name: str) -> bytes:
        try:
            return (self._root / f"proc/{pid}/{name}").read_bytes()
        except OSError:
            return b""


def _groups_of_job(environment: Mapping[str, str], root: Path) -> list[Path]:
    """The directory of the step's control group, or of the job's outside of steps (freezer of version 1, or version 2)."""
    job, step = environment.get("SLURM_JOB_ID"), environment.get("SLURM_STEP_ID")
    name = re.escape(f"job_{job}/step_{step}" if step else f"job_{job}")
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controller, path = line.split(":", 2)
            found = re.match(rf"(/.*/{name})(?:/|$)", path)
            if job and found and controller in ("", "freezer"):
                return [root / "sys/fs/cgroup" / controller / found.group(1).lstrip("/")]
    return []


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return 0


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while (pid := _parent(pid)) > 1 and pid not in found:
        found.append(pid)
    return found


def _is_witness(pid: int, command: bytes) -> bool:
    """The process that stands beside a tracked command to see its signals."""
    return command == b"wc\0" and any(sign in Path(f"/proc/{_parent(pid)}/cmdline").read_bytes() for sign in _OURS)


def _sum(uses: list[_Use]) -> _Use:
    user, system, read, written = (sum(column) for column in zip(*uses, strict=True))
    return float(user), float(system), int(read), int(written)
