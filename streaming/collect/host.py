"""What machine and cloud the run is on: found out once until the next boot, by a process of its own, and remembered.

resource-tracker's discovery asks metadata services that may be silent, and its import is worth megabytes: neither
belongs in the uploader. What the child found lies in the runtime folder, which is this machine's and this user's alone.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from spool import Spool, system
from spool.whole_files import replacing
from streaming import config
from streaming.errors import LaunchFailed
from streaming.processes.child import Child
from streaming.processes.runtime_folder import runtime_folder, this_boot

WAIT_S = 1.0  # a delivery never waits longer for it
HOST, CLOUD = "host", "cloud"

_lock = threading.Lock()
_asked: tuple[Child, float] | None = None  # this process's only question, and when it was asked


def describe(spool: Spool) -> None:
    """Fill in host and cloud before the run is registered, with what is known by now. Waits for WAIT_S at most."""
    run = spool.run()
    if run.registration or (run.host_info is not None and run.cloud_info is not None):
        return
    wants_cloud = run.cloud_info is None and _may_discover_cloud()
    if not _is_enough(recall(), wants_cloud):
        _wait_for_discovery(wants_cloud)
    _write(spool, recall(), wants_cloud)


def describe_in_background(spool: Spool) -> None:
    """The same for a run that nobody delivers now, without any wait: host and cloud are those of this machine now."""
    run = spool.run()
    if run.host_info is not None and run.cloud_info is not None:
        return
    wants_cloud = run.cloud_info is None and _may_discover_cloud()
    if _is_enough(recall(), wants_cloud):
        _write(spool, recall(), wants_cloud)
        return
    with suppress(LaunchFailed):
        _ask(wants_cloud, spool.path).close()


def recall() -> dict[str, Any]:
    """What was found out since this machine's boot."""
    with suppress(OSError, ValueError), runtime_folder() as folder:
        found = json.loads((folder / _file_name()).read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _remember(found: dict[str, Any]) -> None:
    with suppress(OSError), runtime_folder() as folder, replacing(folder / _file_name()) as file:
        file.write(json.dumps(found).encode())


def _file_name() -> str:
    return f"host-{this_boot()}.json"


def _is_enough(found: dict[str, Any], wants_cloud: bool) -> bool:
    return HOST in found and (CLOUD in found or not wants_cloud)


def _write(spool: Spool, found: dict[str, Any], wants_cloud: bool) -> None:
    if HOST in found:
        spool.describe(host_info=found[HOST], cloud_info=found.get(CLOUD, {}) if wants_cloud else {})


def _wait_for_discovery(wants_cloud: bool) -> None:
    """Ask, if this process has not asked yet; wait until that is WAIT_S ago at most."""
    global _asked
    with _lock, suppress(LaunchFailed):
        if _asked is None:
            _asked = _ask(wants_cloud), time.monotonic()
        child, asked_at = _asked
        if child.wait(max(0.0, asked_at + WAIT_S - time.monotonic())):
            child.close()


def _ask(wants_cloud: bool, spool_path: Path | None = None) -> Child:
    from streaming.processes import launch  # here only: one process of a boot needs it

    order = {"spool_path": str(spool_path) if spool_path else None, "wants_cloud": wants_cloud}
    return launch.start("discovery", order, log_path=None)


def _may_discover_cloud() -> bool:
    return os.environ.get(config.DISCOVER_CLOUD, "1").lower() not in ("0", "false", "no", "off")


def main(order: dict[str, Any]) -> int:
    """The child's entry: finds out and remembers it; writes it into a spool too, where its caller gave nothing."""
    from resource_tracker.cloud_info import get_cloud_info
    from resource_tracker.server_info import get_server_info

    found = {HOST: _host(get_server_info())}
    _remember(found)
    if order["wants_cloud"]:
        found[CLOUD] = _cloud(get_cloud_info())
        _remember(found)
    if order["spool_path"] is not None:
        with closing(Spool(Path(order["spool_path"]))) as spool:
            _write(spool, found, order["wants_cloud"])
    return 0


def _host(server: dict[str, Any]) -> dict[str, Any]:
    """resource-tracker's names as host_* fields; what is not known is left out."""
    host = {
        "host_id": system.host_identity().partition("/")[0],
        "host_hostname": system.host_identity().partition("/")[2],
        "host_vcpus": server.get("vcpus"),
        "host_cpu_model": _cpu_model(),
        "host_memory_mib": server.get("memory_mib"),
        "host_gpu_model": server.get("gpu_name"),
        "host_gpu_count": server.get("gpu_count"),
        "host_gpu_memory_mib": server.get("gpu_memory_mib"),
    }
    return {key: value for key, value in host.items() if value not in (None, "")}


def _cloud(cloud: dict[str, Any]) -> dict[str, Any]:
    """resource-tracker's names as cloud_* fields; "unknown" is left out."""
    named = {
        "cloud_vendor_id": cloud.get("vendor"),
        "cloud_region_id": cloud.get("region"),
        "cloud_instance_type": cloud.get("instance_type"),
    }
    return {key: value for key, value in named.items() if value not in (None, "", "unknown")}


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    except OSError:
        return None
