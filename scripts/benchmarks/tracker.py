"""Row 8: the process that samples, beside resource-tracker's two, all watching the same idle program."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks import child, measure
from benchmarks.child import Child
from benchmarks.table import Figure, Measured
from benchmarks.world import World

INTERVAL_S = 0.1
WARM_S = 2.0


def measure_tracker(world: World) -> Measured:
    """Both at once, so that whatever else the machine does meets both alike."""
    seconds = world.pick(20.0, 5.0)
    with (
        Child(tracked, world.environment(), seconds=seconds) as program,
        Child(ours, world.environment(), folder=str(world.folder("tracker")), pid=program.pid, seconds=seconds) as mine,
        Child(peer, world.environment(), pid=program.pid, seconds=seconds) as theirs,
    ):
        return _figures(mine.hear(), theirs.hear())


def _figures(mine: dict[str, Any], theirs: dict[str, Any]) -> Measured:
    ratio = mine["cpu_s"] / theirs["cpu_s"]
    return Measured(
        [
            Figure(
                "8",
                "tracker: CPU per sample, its durable append included",
                f"{mine['cpu_s'] * 1e3:.2f} ms",
                f"resource-tracker's two processes: {theirs['cpu_s'] * 1e3:.2f} ms",
                f"{ratio:.2f}",
                "at most 0.6",
                ratio <= 0.6,
                {"ours_s": mine["cpu_s"], "peer_s": theirs["cpu_s"], "ratio": ratio},
            ),
            Figure(
                "",
                "tracker: memory (PSS)",
                f"{mine['bytes'] / measure.MIB:.1f} MiB",
                f"resource-tracker's two processes: {theirs['bytes'] / measure.MIB:.1f} MiB",
                f"{mine['bytes'] / theirs['bytes']:.2f}",
                "under 30 MB",
                mine["bytes"] < 30e6,
                {"ours_bytes": mine["bytes"], "peer_bytes": theirs["bytes"]},
            ),
        ],
        [
            f"Row 8: {mine['samples']} and {theirs['samples']} samples at {INTERVAL_S} s of the same program, at the same"
            " time. Our tracker is a fresh interpreter, the peer's are forks of their parent and share its"
            " memory (PSS counts shares). What bounds"
            " ours: a third is the durable append, with SQLite's five syncs (the peer writes a line that it does not sync), a"
            " fifth is the kernel's sum over the tracked program's memory (smaps_rollup), which both pay."
        ],
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def tracked(seconds: float) -> None:
    """A program that lives as long as it is watched."""
    child.listen()
    time.sleep(seconds * 3)


def ours(folder: str, pid: int, seconds: float) -> dict[str, Any]:
    """CPU per sample and memory of our tracker process."""
    from spool import Spool, queries
    from streaming.processes import launch
    from streaming.record.plan import Delivery, Plan
    from streaming.record.tracker import child_order

    delivery = Delivery(None, api_url="", s3_endpoint_url=None, upload_interval_s=60, linger_s=0)
    plan = Plan(Path(folder) / "spools", delivery, interval_s=INTERVAL_S, host_info={}, cloud_info={})
    spool = Spool.create(plan.spool_dir, plan.new_run(os.getpid()))
    process = launch.start("tracker", child_order(spool.path, pid, plan), log_path=spool.path.with_suffix(".log"))
    taken = _watched([process.pid], seconds, lambda: queries.counts(spool.connection).recorded)
    process.tell(b"{}")
    return taken


def peer(pid: int, seconds: float) -> dict[str, Any]:
    """The same of resource-tracker's two processes, without uploads."""
    from resource_tracker import ResourceTracker

    tracker = ResourceTracker(pid=pid, interval=INTERVAL_S, discover_server=False, discover_cloud=False)
    tracker.start()
    pids = [tracker.process_tracker_process.pid, tracker.system_tracker_process.pid]
    taken = _watched(pids, seconds, lambda: tracker.n_samples)
    tracker.stop()
    return taken


def _watched(pids: list[int], seconds: float, sample_count: Any) -> dict[str, Any]:
    time.sleep(WARM_S)
    cpu_s, samples = sum(map(measure.cpu_s, pids)), sample_count()
    time.sleep(seconds)
    cpu_s, samples = sum(map(measure.cpu_s, pids)) - cpu_s, sample_count() - samples
    memory = sum(map(measure.pss_bytes, pids))
    return {"cpu_s": cpu_s / samples, "samples": samples, "bytes": memory}
