"""Samples of a process tree and the system, as CSV rows, through resource-tracker's own classes.

Columns: `timestamp` (s since the epoch), then `system_*`, then `process_*`; units as resource-tracker documents them.
"""

from __future__ import annotations

import os
import shutil
from csv import QUOTE_NONNUMERIC
from typing import Any

from streaming.collect.procfs import system_stats


class Sampler:
    """Two trackers of resource-tracker, asked in turn in this process."""

    def __init__(self, pid: int) -> None:
        """Takes the first measurement, the baseline of the first sample."""
        process_tracker, system_tracker = _tracker_classes()
        self._process = process_tracker(pid=pid, autostart=False)
        self._system = system_tracker(autostart=False)
        self.header = b""
        self.latest: dict[str, Any] = {}

    def sample(self) -> bytes | None:
        """One row since the last call, None if the process is gone. Sets `header`, and `latest` to the values by column."""
        process = self._process.diff_stats()
        if process["memory_mib"] == 0:
            return None
        system = self._system.diff_stats()
        combined: dict[str, Any] = {"timestamp": system.pop("timestamp")}
        combined.update((f"system_{name}", value) for name, value in system.items())
        combined.update((f"process_{name}", value) for name, value in process.items() if name != "timestamp")
        self.latest = combined
        self.header = self.header or _csv_line(combined)
        return _csv_line(combined.values())


def _tracker_classes() -> tuple[Any, Any]:
    """resource-tracker's classes, reading procfs where there is one (psutil costs several times the CPU)."""
    from resource_tracker import tracker, tracker_procfs

    if os.path.isdir("/proc/self"):
        tracker_procfs.get_process_pss_rollup = _tolerant(tracker_procfs.get_process_pss_rollup)
        procfs = (tracker_procfs.get_process_stats, system_stats())
        tracker.get_tracker_implementation = lambda: procfs
        if shutil.which("nvidia-smi") is None:  # else each sample starts a process twice to find out the same
            tracker_procfs.start_nvidia_smi = lambda: None
            tracker_procfs.start_nvidia_smi_pmon = lambda: None
    return tracker.ProcessTracker, tracker.SystemTracker


def _tolerant(pss_kib: Any) -> Any:
    """A process of another user (sudo in the tree, or attached to) shows its resident size only, and is no error."""

    def memory_kib(pid: int) -> int:
        try:
            return int(pss_kib(pid))
        except PermissionError:
            from resource_tracker import tracker_procfs

            return int(tracker_procfs.get_process_rss(pid) or 0)

    return memory_kib if pss_kib.__name__ != memory_kib.__name__ else pss_kib


def _csv_line(values: Any) -> bytes:
    from resource_tracker.helpers import render_csv_row

    line: bytes = render_csv_row(values, quoting=QUOTE_NONNUMERIC)
    return line
