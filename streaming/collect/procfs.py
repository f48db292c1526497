"""The system's numbers as resource-tracker takes them from procfs, from files that are opened once.

The same keys, the same definitions (`resource_tracker.tracker_procfs.get_system_stats`; a test holds the two together),
at less than half the CPU: it is paid at every sample. Where there is a GPU or ZFS, resource-tracker's own is used.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

_FILES = ("stat", "meminfo", "diskstats", "net/dev", "mounts")
_READ_BYTES = 64 << 10
_MEMORY = re.compile(
    rb"^(MemTotal|MemFree|MemAvailable|Buffers|Cached|SReclaimable|Active|Inactive):\s+(\d+)", re.MULTILINE
)
_VIRTUAL = (b"/proc", b"/sys", b"/dev", b"/run")
_NO_GPU = {"gpu_usage": 0, "gpu_vram_mib": 0, "gpu_utilized": 0}


def system_stats() -> Callable[[], dict[str, Any]]:
    """A function that measures the system: ours where it knows all that is there, else resource-tracker's."""
    from resource_tracker import tracker_procfs

    theirs: Callable[[], dict[str, Any]] = tracker_procfs.get_system_stats
    if shutil.which("nvidia-smi") is not None:
        return theirs
    try:
        ours = SystemStats()
        return theirs if ours.has_zfs() else ours
    except OSError:
        return theirs


class SystemStats:
    """Cumulative and current numbers of the system at each call."""

    def __init__(self) -> None:
        """Raises OSError where procfs lacks one of the files."""
        from resource_tracker import helpers, tracker_procfs

        self._is_partition: Callable[[str], bool] = helpers.is_partition
        self._sector_sizes: dict[str, int] = tracker_procfs.get_sector_sizes()
        self._descriptors = {name: os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _FILES}
        self._mounts = b""
        self._mount_points: list[bytes] = []

    def __call__(self) -> dict[str, Any]:
        return {
            "timestamp": time.time(),
            "processes": sum(name.isdigit() for name in os.listdir("/proc")),
            **self._cpu(),
            **self._memory(),
            "disk_stats": self._disks(),
            "disk_spaces": self._spaces(),
            **self._network(),
            **_NO_GPU,
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
        ticks = os.sysconf("SC_CLK_TCK")
        return {"utime": (int(user) + int(nice)) / ticks, "stime": int(system) / ticks}

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
            if len(fields) >= 14 and not self._is_partition(name := fields[2].decode()):
                sector = self._sector_sizes.get(name, 512)
                disks[name] = {"read_bytes": int(fields[5]) * sector, "write_bytes": int(fields[9]) * sector}
        return disks

    def _spaces(self) -> dict[str, dict[str, int]]:
        mounts = self._read("mounts")
        if mounts != self._mounts:
            points = (line.split()[1] for line in mounts.splitlines())
            self._mounts, self._mount_points = mounts, [at for at in points if not at.startswith(_VIRTUAL)]
        spaces = {}
        for point in self._mount_points:
            try:
                found = os.statvfs(point)
            except OSError:
                continue
            if found.f_blocks:
                total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
                spaces[os.fsdecode(point)] = {"total": total, "used": total - free, "free": free}
        return spaces

    def _network(self) -> dict[str, int]:
        received = sent = 0
        for line in self._read("net/dev").splitlines()[2:]:
            name, _, rest = line.partition(b":")
            if name.strip() != b"lo":
                numbers = rest.split()
                received, sent = received + int(numbers[0]), sent + int(numbers[8])
        return {"net_recv_bytes": received, "net_sent_bytes": sent}
