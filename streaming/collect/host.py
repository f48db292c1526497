"""What machine and cloud the run is on, found out in a process of its own and in the background.

resource-tracker's discovery asks metadata services that may be silent, and its import is worth megabytes: neither
belongs in the uploader. The child writes what it found into the spool and is gone.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from spool import Spool, system
from streaming import config
from streaming.errors import LaunchFailed
from streaming.processes import launch
from streaming.processes.child import Child

DISCOVERY_TIMEOUT_S = 10.0


def begin(spool: Spool) -> Child | None:
    """Start finding out, if the caller left host or cloud open. Nobody needs to wait for it."""
    run = spool.run()
    if run.registration or (run.host_info is not None and run.cloud_info is not None):
        return None
    order = {"spool_path": str(spool.path), "wants_cloud": run.cloud_info is None and _may_discover_cloud()}
    try:
        return launch.start("discovery", order, log_path=None)
    except LaunchFailed:
        return None


def describe(spool: Spool) -> None:
    """Fill in host and cloud before the run is registered. Takes seconds; finds less rather than fail."""
    child = begin(spool)
    if child is not None:
        child.wait(DISCOVERY_TIMEOUT_S)
        child.close()


def _may_discover_cloud() -> bool:
    return os.environ.get(config.DISCOVER_CLOUD, "1").lower() not in ("0", "false", "no", "off")


def main(order: dict[str, Any]) -> int:
    """The child's entry: finds out and writes it into the spool, where the caller gave nothing."""
    from resource_tracker.cloud_info import get_cloud_info
    from resource_tracker.server_info import get_server_info

    host_info = _host(get_server_info())
    cloud_info = _cloud(get_cloud_info()) if order["wants_cloud"] else {}
    with closing(Spool(Path(order["spool_path"]))) as spool:
        spool.describe(host_info=host_info, cloud_info=cloud_info)
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
