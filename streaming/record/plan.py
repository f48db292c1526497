"""What is to be recorded of a run, and where it goes: settled before it begins."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spool import NewRun, Tracker, system
from streaming import config
from streaming.collect import scheduler


@dataclass(frozen=True)
class Delivery:
    """How this run is to be delivered. The token is held in memory only."""

    token: str | None = field(repr=False)
    api_url: str
    s3_endpoint_url: str | None
    upload_interval_s: float
    linger_s: float
    start_method: str = "spawn"

    @classmethod
    def to(cls, target: config.Target, *, upload_interval_s: float, start_method: str = "spawn") -> Delivery:
        """There, for as long after the run's end as the settings say."""
        where = target.token, target.api_url, target.s3_endpoint_url
        return cls(*where, upload_interval_s, config.linger_s(), start_method)

    def order(self, spool_path: Path, *, is_awaited: bool = False) -> dict[str, Any]:
        """The engine's order, sent through its socket. `is_awaited`: the run has ended, and somebody waits."""
        return {
            "do": "deliver",
            "path": str(spool_path),
            "tracker_pid": os.getpid(),
            "token": self.token,
            "api_url": self.api_url,
            "s3_endpoint_url": self.s3_endpoint_url,
            "interval_s": self.upload_interval_s,
            "linger_s": self.linger_s,
            "is_awaited": is_awaited,
        }


@dataclass(frozen=True)
class Plan:
    """What to record, how often, where to, and how it is delivered. None for host and cloud: discovered."""

    spool_dir: Path
    delivery: Delivery
    interval_s: float = config.HEARTBEAT_S  # between two rows, where that is known
    metadata: dict[str, Any] = field(default_factory=dict)
    host_info: dict[str, Any] | None = None
    cloud_info: dict[str, Any] | None = None
    csv_path: str | None = None

    def new_run(self, tracker_pid: int) -> NewRun:
        """The run record of a run that begins now."""
        return NewRun(
            tracker=tracker_of(tracker_pid, heartbeat_s=self.interval_s),
            started_at=time.time(),
            token=self.delivery.token,
            metadata=self.metadata,
            host_info=self.host_info,
            cloud_info=self.cloud_info,
            csv_path=self.csv_path,
            api_url=self.delivery.api_url if self.delivery.token else "",  # without a token it is for no service yet
            s3_endpoint_url=self.delivery.s3_endpoint_url,
            upload_interval_s=self.delivery.upload_interval_s,
        )


def tracker_of(pid: int, *, heartbeat_s: float = config.HEARTBEAT_S) -> Tracker:
    """Who records, and how often others can expect to see a sign of life."""
    job = scheduler.slurm_job(os.environ)
    return replace(system.identify(pid), heartbeat_s=min(heartbeat_s, config.HEARTBEAT_S), slurm_job=job)
