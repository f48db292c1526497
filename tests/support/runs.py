"""Runs made directly in a spool directory, for tests of what people do with them."""

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from spool import Batch, NewRun, Spool, Tracker, system

HEADER = b'"timestamp","process_cpu_usage","process_memory_mib"\n'


def rows(count: int, *, first: int = 0) -> bytes:
    return b"".join(b"%d,%d.5,%d\n" % (1_700_000_000 + n, n % 4, 100 + n) for n in range(first, first + count))


def dead_tracker() -> Tracker:
    """A process that has just ended on this machine."""
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    who = system.identify(ended.pid)
    ended.wait()
    return who


def elsewhere(tracker: Tracker, **facts: Any) -> Tracker:
    """The same on another host, as this one sees it."""
    return replace(tracker, host="other-machine-id/n1", boot_id="other-boot", **facts)


def make_run(
    spool_dir: Path,
    *,
    tracker: Tracker,
    row_count: int = 10,
    batch_rows: int = 1000,
    started_at: float | None = None,
    api_url: str = "",
    token: str | None = None,
    exit_code: int | None = None,
    run_status: str | None = None,
    csv: bytes = b"",
    **metadata: Any,
) -> Path:
    """A run with so many rows, or with those of `csv`; ended if `run_status` is given."""
    new = NewRun(
        tracker=tracker,
        started_at=time.time() - row_count if started_at is None else started_at,
        token=token,
        metadata=metadata,
        host_info={},
        cloud_info={},
        api_url=api_url,
    )
    with closing(Spool.create(spool_dir, new)) as spool:
        for first in range(0, row_count, batch_rows):
            spool.append([Batch(HEADER, rows(min(batch_rows, row_count - first), first=first))])
        if csv:
            header, _, lines = csv.partition(b"\n")
            spool.append([Batch(header + b"\n", lines)])
        if run_status:
            spool.end(exit_code=exit_code, run_status=run_status, ended_at=new.started_at + row_count)
        return spool.path


def ended_run(spool_dir: Path, **more: Any) -> Path:
    """A run whose tracker has ended it properly."""
    return make_run(spool_dir, tracker=dead_tracker(), **{"run_status": "finished", "exit_code": 0, **more})


def dead_run(spool_dir: Path, **more: Any) -> Path:
    """A run whose tracker died."""
    return make_run(spool_dir, tracker=dead_tracker(), **more)


def live_run(spool_dir: Path, **more: Any) -> Path:
    """A run that this very process records."""
    return make_run(spool_dir, tracker=system.identify(os.getpid()), **more)
