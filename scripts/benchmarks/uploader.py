"""Row 7: what the uploader holds and uses while a run goes on, beside a bare process with the same libraries."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import child, measure
from benchmarks.child import Child
from benchmarks.rows import HEADER, Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import World

INTERVAL_S = 60
ROWS_PER_CYCLE = 60


def measure_uploader(world: World) -> Measured:
    """All alive at once: the bare process, and callers with uploaders that go through 100 cycles at a faster pace."""
    cycles, uploaders = world.pick(100, 20), world.pick(3, 1)
    with world.far_end() as far_end, Child(bare, world.environment()) as bare_child:
        bare_child.hear()
        callers = [
            Child(
                caller,
                world.environment(),
                folder=str(world.folder("uploader")),
                address=far_end.address(),
                cycles=cycles,
                pace_s=world.pick(0.25, 0.2),
            )
            for _ in range(uploaders)
        ]
        found = [each.hear() for each in callers]
        bare_bytes = measure.pss_bytes(bare_child.pid)
        memory = [measure.pss_bytes(each["pid"]) for each in found]
        for each in callers:
            each.__exit__(None, None, None)
    return _figures(found, memory, bare_bytes, cycles)


def _figures(found: list[dict[str, Any]], memory: list[int], bare_bytes: int, cycles: int) -> Measured:
    ours_bytes = median(memory)
    cycle_s = median(each["cycles_s"] for each in found) / cycles
    start_s = median(each["start_s"] for each in found)
    share = (cycle_s * 3600 / INTERVAL_S + start_s) / 3600
    ratio = ours_bytes / bare_bytes
    return Measured(
        [
            Figure(
                "7",
                f"uploader: memory (PSS) after {cycles} cycles",
                f"{ours_bytes / measure.MIB:.1f} MiB",
                f"bare process with boto3 client and requests: {bare_bytes / measure.MIB:.1f} MiB",
                f"{ratio:.2f}",
                "at most 1.1",
                ratio <= 1.1,
                {"ours_bytes": ours_bytes, "bare_bytes": bare_bytes, "ratio": ratio},
            ),
            Figure(
                "",
                "uploader: CPU over an hour at a 60 s interval",
                f"{share:.3%} of a core",
                f"{start_s:.2f} s to start, {cycle_s * 1e3:.1f} ms a cycle",
                "",
                "under 0.1 %",
                share < 0.001,
                {"share": share, "start_s": start_s, "cycle_s": cycle_s},
            ),
        ],
        [
            f"Row 7: {cycles} cycles of {ROWS_PER_CYCLE} rows each at a faster pace, median of {len(found)} uploaders; the"
            " hour is its start and first registration once, and 60 such cycles. Between cycles it sleeps in one poll()."
        ],
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def bare() -> None:
    """The least that can upload: a boto3 client and requests, imported and idle."""
    import boto3
    import requests

    client = boto3.client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id="AKIA",
        aws_secret_access_key="none",
        endpoint_url="http://127.0.0.1:9",
    )
    child.say("ready")
    child.listen()
    del client, requests


def caller(folder: str, address: dict[str, str], cycles: int, pace_s: float) -> None:
    """Record rows until the uploader went through that many cycles; say its CPU for the start and for the cycles."""
    from benchmarks.spools import new_run
    from spool import Batch, Spool
    from streaming.record.plan import Delivery
    from streaming.record.recorder import Recorder

    spool = Spool.create(Path(folder) / "spools", new_run(**address))
    delivery = Delivery(**address, upload_interval_s=pace_s, linger_s=0.0)
    recorder = Recorder.adopt(spool, delivery)
    while (pid := recorder.uploader_pid) is None:
        time.sleep(0.01)
    rows, batch_count = Rows(), 0

    def feed(cycle_count: int) -> None:
        """One cycle's rows at a time, each sent before the next."""
        nonlocal batch_count
        for _ in range(cycle_count):
            recorder.append([Batch(HEADER, rows.block(batch_count * ROWS_PER_CYCLE, ROWS_PER_CYCLE))])
            batch_count += 1
            while (last := spool.last_sent()) is None or last.last_batch_id < batch_count:
                time.sleep(pace_s / 10)

    feed(1)
    start_s = measure.cpu_s(pid)
    feed(cycles)
    child.say({"pid": pid, "start_s": start_s, "cycles_s": measure.cpu_s(pid) - start_s})
    child.listen()
    os._exit(0)
