"""The numbers of the system and of a process tree as resource-tracker takes them from procfs, without importing it.

The same keys, the same definitions (`resource_tracker.tracker_procfs`; a test holds the two together), at less than half
the CPU and a third of the memory: they are paid at every sample, and by every rank of a node. Beyond its definitions,
children of all threads count, and mount points with blanks. Where there is a GPU or ZFS, resource-tracker's own is used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from streaming.collect.mounts import Mounts

Measure = Callable[[], dict[str, Any]]
MeasureProcess = Callable[[int], dict[str, Any]]

_FILES = ("stat", "meminfo", "diskstats", "net/dev", "mounts")
_READ_BYTES = 64 << 10
_MEMORY = re.compile(
    rb"^(MemTotal|MemFree|MemAvailable|Buffers|Cached|SReclaimable|Active|Inactive):\s+(\d+)", re.MULTILINE
)
_PARTITION = re.compile(r"(sd[a-z]+|nvme\d+n\d+|mmcblk\d+)p?\d+$")
NO_GPU = {"gpu_usage": 0, "gpu_vram_mib": 0, "gpu_utilized": 0}
_GONE = (ProcessLookupError, FileNotFoundError)


def measures() -> tuple[MeasureProcess, Measure]:
    """How to measure a process and the system: ours where it knows all that is there, else resource-tracker's."""
    has_gpu = _has_gpu()
    with suppress(OSError):
        ours = SystemStats()
        if not has_gpu and not ours.has_zfs():
            return process_stats, ours
    from resource_tracker.helpers import get_tracker_implementation

    process, system = get_tracker_implementation()
    return (process if has_gpu or not os.path.isdir("/proc/self") else process_stats), system


def _has_gpu() -> bool:
    """Whether there is a program that tells of one."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(os.path.join(folder, "nvidia-smi"), os.X_OK) for folder in folders if folder)


class SystemStats:
    """Cumulative and current numbers of the system at each call, from files that are opened once."""

    def __init__(self) -> None:
        """Raises OSError where procfs lacks one of the files."""
        self._descriptors = {name: os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _FILES}
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._sector_sizes: dict[str, int] = {}  # 0 for a partition, whose disk is counted
        self._mounts = Mounts()

    def __call__(self) -> dict[str, Any]:
        return {
            "timestamp": time.time(),
            "processes": sum(name.isdigit() for name in os.listdir("/proc")),
            **self._cpu(),
            **self._memory(),
            "disk_stats": self._disks(),
            "disk_spaces": self._mounts.spaces(self._read("mounts")),
            **self._network(),
            **NO_GPU,
        }

    def has_zfs(self) -> bool:
        """Whether a ZFS is mounted: its pools are counted otherwise."""
        return any(line.split()[2] == b"zfs" for line in self._read("mounts").splitlines())

    def _read(self, name: str) -> bytes:
        """The file as it is now. The kernel gives some of them in pieces of a page."""
        descriptor = self._descriptors[name]
        text = os.pread(descriptor, _READ_BYTES, 0)
        while piece := os.pread(descriptor, _READ_BYTES, len(text)):
            text += piece
        return text

    def _cpu(self) -> dict[str, float]:
        _, user, nice, system, *_ = os.pread(self._descriptors["stat"], 256, 0).split(maxsplit=4)
        return {"utime": (int(user) + int(nice)) / self._ticks, "stime": int(system) / self._ticks}

    def _memory(self) -> dict[str, float]:
        kib = {name: int(number) for name, number in _MEMORY.findall(self._read("meminfo"))}
        free, buffers = kib.get(b"MemFree", 0), kib.get(b"Buffers", 0)
        cached = kib.get(b"Cached", 0) + kib.get(b"SReclaimable", 0)
        available = kib.get(b"MemAvailable", free + buffers + cached)
        return {
            "memory_free_mib": free / 1024,
            "memory_used_mib": (kib.get(b"MemTotal", 0) - available) / 1024,
            "memory_buffers_mib": buffers / 1024,
            "memory_cached_mib": cached / 1024,
            "memory_active_mib": kib.get(b"Active", 0) / 1024,
            "memory_inactive_mib": kib.get(b"Inactive", 0) / 1024,
        }

    def _disks(self) -> dict[str, dict[str, int]]:
        disks = {}
        for line in self._read("diskstats").splitlines():
            fields = line.split()
            if len(fields) >= 14 and (sector := self._sector_size(name := fields[2].decode())):
                disks[name] = {"read_bytes": int(fields[5]) * sector, "write_bytes": int(fields[9]) * sector}
        return disks

    def _sector_size(self, disk: str) -> int:
        if disk not in self._sector_sizes:
            self._sector_sizes[disk] = 0 if _is_partition(disk) else _hardware_sector_size(disk)
        return self._sector_sizes[disk]

    def _network(self) -> dict[str, int]:
        received = sent = 0
        for line in self._read("net/dev").splitlines()[2:]:
            name, _, rest = line.partition(b":")
            if name.strip() != b"lo":
                numbers = rest.split()
                received, sent = received + int(numbers[0]), sent + int(numbers[8])
        return {"net_recv_bytes": received, "net_sent_bytes": sent}


def _is_partition(disk: str) -> bool:
    with suppress(OSError):
        parents = (name for name in os.listdir("/sys/block") if name != disk)
        return bool(_PARTITION.search(disk)) and any(disk.startswith(parent) for parent in parents)
    return False


def _hardware_sector_size(disk: str) -> int:
    try:
        return int(_read(f"/sys/block/{disk}/queue/hw_sector_size"))
    except (OSError, ValueError):
        return 512


# -- a process and all its descendants ---------------------------------------------------------------------------------


def process_stats(pid: int) -> dict[str, Any]:
    """Cumulative and current numbers of the tree; `memory_mib` is 0 when its root is gone."""
    timestamp = time.time()
    tree = [pid, *descendants(pid)]
    memory_kib = [memory for each in tree if (memory := memory_kib_of(each))]
    cpu = [cpu_seconds(each) for each in tree]
    io = [io_bytes(each) for each in tree]
    return {
        "timestamp": timestamp,
        "pid": pid,
        "children": len(tree) - 1,
        "utime": sum(user for user, _ in cpu),
        "stime": sum(system for _, system in cpu),
        "memory_mib": sum(memory_kib) / 1024,
        "disk_read_bytes": sum(read for read, _ in io),
        "disk_write_bytes": sum(written for _, written in io),
        **NO_GPU,
    }


def descendants(pid: int) -> Iterator[int]:
    """Children of all threads, and theirs."""
    with suppress(*_GONE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, _read(f"/proc/{pid}/task/{thread}/children").split()):
                yield child
                yield from descendants(child)


def cpu_seconds(pid: int) -> tuple[float, float]:
    """User and system time of a process and of the children that it waited for."""
    ticks = os.sysconf("SC_CLK_TCK")
    with suppress(*_GONE):
        stat = _read(f"/proc/{pid}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split()
        return (int(fields[11]) + int(fields[13])) / ticks, (int(fields[12]) + int(fields[14])) / ticks
    return 0.0, 0.0


def memory_kib_of(pid: int) -> int:
    """Proportional set size; of a process of another user (sudo in the tree, or attached to) the resident size."""
    with suppress(*_GONE):
        try:
            return _number_after(b"Pss:", _read(f"/proc/{pid}/smaps_rollup"))
        except PermissionError:
            return _number_after(b"VmRSS:", _read(f"/proc/{pid}/status"))
    return 0


def highest_memory_kib_of(pid: int) -> int:
    """The largest resident size that the process had since it was executed."""
    with suppress(OSError):
        return _number_after(b"VmHWM:", _read(f"/proc/{pid}/status"))
    return 0


def io_bytes(pid: int) -> tuple[int, int]:
    """Bytes read from and written to disks, by a process and the children that it waited for."""
    with suppress(*_GONE, PermissionError):
        text = _read(f"/proc/{pid}/io")
        return _number_after(b"\nread_bytes:", text), _number_after(b"\nwrite_bytes:", text)
    return 0, 0


def _number_after(name: bytes, text: bytes) -> int:
    _, _, rest = text.partition(name)
    return int(rest.split(maxsplit=1)[0]) if rest else 0


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, _READ_BYTES)
        while len(text) % 4096 == 0 and (piece := os.read(descriptor, _READ_BYTES)):
            text += piece
        return text
    finally:
        os.close(descriptor)
