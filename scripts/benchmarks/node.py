"""Row 15: 1, 16 and 64 commands at once on a node, all recorded; resource-tracker in 16 programs beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import child, measure
from benchmarks.child import Child
from benchmarks.table import Figure, Measured
from benchmarks.world import FarEnd, World
from spool import Spool, SpoolError, directory
from tests.support import processes
from tests.support.processes import Process

UPLOAD_S = 5
PATIENCE_S = 120.0
LOOK_S = 0.25
MEMORY_GOALS = {1: 48 * measure.MIB, 64: 18 * measure.MIB}
CPU_GOAL = 0.0025


@dataclass(frozen=True)
class Load:
    """What so many runs cost in a window of `seconds`."""

    runs: int
    process_count: int
    pss_bytes: int
    cpu_s: float
    seconds: float

    @property
    def pss_per_run(self) -> float:
        return self.pss_bytes / self.runs

    @property
    def core_share(self) -> float:
        return self.cpu_s / self.seconds / self.runs


@dataclass(frozen=True)
class Node:
    """How so many recorded commands of a node went."""

    load: Load
    put_count: int
    first_rows_s: float  # from the first start to the last run's first row
    delivered_s: float  # from the end of all commands to the last one's return


def measure_node(world: World) -> Measured:
    """One after the other: each number of runs has the machine alone."""
    seconds = world.pick(30.0, 10.0)
    nodes = [_node(world, count, seconds) for count in world.pick((1, 16, 64), (1, 4))]
    peers = _peers(world, world.pick(16, 2), seconds)
    figures = [figure for node in nodes for figure in _figures(node, peers)]
    return Measured(
        [figures[0].numbered("15"), *figures[1:]],
        [
            f"Row 15: `tracker-stream run -- sleep` at a sample a second and an upload every {UPLOAD_S} s, all started at"
            f" once; memory (PSS) and CPU of all of ours over {seconds:.0f} s. The peer records and uploads as often, in"
            f" {peers.runs} idle programs; its memory is that of the program and its processes, less a bare Python's."
        ],
    )


def _figures(node: Node, peers: Load) -> list[Figure]:
    load = node.load
    goal = MEMORY_GOALS.get(load.runs)
    other = f"resource-tracker, {peers.runs} runs: {peers.process_count} processes,"
    return [
        Figure(
            "",
            f"{load.runs} runs at once on a node: memory (PSS) a run",
            f"{load.pss_per_run / measure.MIB:.1f} MiB, {load.process_count} processes",
            f"{other} {peers.pss_per_run / measure.MIB:.1f} MiB a run",
            f"{load.pss_per_run / peers.pss_per_run:.2f}",
            f"at most {goal / measure.MIB:.0f} MiB" if goal else "",
            load.pss_per_run <= goal if goal else None,
            {"pss_per_run": load.pss_per_run, "process_count": load.process_count},
        ),
        Figure(
            "",
            f"{load.runs} runs at once on a node: CPU a run",
            f"{load.core_share:.2%} of a core, {node.put_count} PUTs",
            f"resource-tracker: {peers.core_share:.2%} of a core",
            f"{load.core_share / peers.core_share:.2f}",
            f"at most {CPU_GOAL:.2%}" if load.runs == max(MEMORY_GOALS) else "",
            load.core_share <= CPU_GOAL if load.runs == max(MEMORY_GOALS) else None,
            {"core_share": load.core_share, "put_count": node.put_count},
        ),
        Figure(
            "",
            f"{load.runs} runs at once on a node: each has a row; each is delivered after its end",
            f"{node.first_rows_s:.1f} s; {node.delivered_s:.1f} s",
            values={"first_rows_s": node.first_rows_s, "delivered_s": node.delivered_s},
        ),
    ]


def _node(world: World, count: int, seconds: float) -> Node:
    folder, marker = world.folder("node"), processes.new_marker()
    with world.far_end() as far_end, ExitStack() as stack:
        stack.callback(processes.wait_gone, marker)
        stack.callback(processes.kill_marked, marker)
        settings = {processes.MARKER_NAME: marker, "TRACKER_STREAM_DIR": str(folder), **far_end.settings()}
        options = ["run", "--quiet", "-i", "1", "--upload-interval", str(UPLOAD_S), "--exit-wait", str(PATIENCE_S)]
        command = [sys.executable, "-m", "streaming", *options, "--", "sleep", "86400"]
        began_at = time.time()
        programs = [subprocess.Popen(command, env=world.environment(**settings)) for _ in range(count)]
        first_rows_at = _wait_for(lambda: _first_rows(folder, count))
        _wait_for(lambda: len(far_end.puts()) >= count)
        puts = len(far_end.puts())
        load = _load(count, [each for each in processes.marked(marker) if not _is_sleep(each)], seconds)
        puts = len(far_end.puts()) - puts
        ended_at = time.monotonic()
        for each in filter(_is_sleep, processes.marked(marker)):
            processes.kill(each, signal.SIGTERM)
        for program in programs:
            program.wait(PATIENCE_S)
        delivered_s = time.monotonic() - ended_at
    return Node(load, puts, max(first_rows_at) - began_at, delivered_s)


def _is_sleep(process: Process) -> bool:
    return process.command.startswith("sleep")


def _wait_for(look: Callable[[], Any]) -> Any:
    def later() -> Any:
        time.sleep(LOOK_S)  # not to be felt by what is measured
        return look()

    return processes.eventually(later, PATIENCE_S)


def _first_rows(folder: Path, count: int) -> list[float]:
    """When each run's first row was appended, once all have one."""
    found = [at for path in directory.spool_paths(folder) for at in _first_row(path)]
    return found if len(found) == count else []


def _first_row(path: Path) -> list[float]:
    with suppress(SpoolError), closing(Spool(path)) as spool:  # one that is being made is none yet
        return [at for (at,) in spool.connection.query("SELECT min(appended_at) FROM batch") if at is not None]
    return []


def _load(runs: int, ours: Sequence[Process], seconds: float, less_bytes: int = 0) -> Load:
    pids = [each.pid for each in ours]
    cpu_s = sum(map(measure.cpu_s, pids))
    time.sleep(seconds)
    cpu_s = sum(map(measure.cpu_s, pids)) - cpu_s
    return Load(runs, len(pids), sum(map(measure.pss_bytes, pids)) - less_bytes, cpu_s, seconds)


def _peers(world: World, count: int, seconds: float) -> Load:
    """The same by resource-tracker: its processes, and what it adds to the programs, which are its own."""
    with world.far_end() as far_end, ExitStack() as stack:
        children = [stack.enter_context(_peer(world, far_end)) for _ in range(count)]
        bare = stack.enter_context(Child(idle, world.environment()))
        for each in (*children, bare):
            each.hear()
        bare_bytes = measure.pss_bytes(bare.pid)
        theirs = [process for each in children for process in (_found(each.pid), *processes.descendants(each.pid))]
        load = _load(count, theirs, seconds, less_bytes=bare_bytes * count)
        return Load(count, load.process_count - count, load.pss_bytes, load.cpu_s, seconds)


def _found(pid: int) -> Process:
    process = processes.find(pid)
    assert process is not None
    return process


def _peer(world: World, far_end: FarEnd) -> Child:
    address = far_end.address()
    environment = world.environment(SENTINEL_API_URL=address["api_url"])
    return Child(peer, environment, token=address["token"], s3_endpoint_url=address["s3_endpoint_url"])


# -- in the child ------------------------------------------------------------------------------------------------------


def idle() -> None:
    """A program that does nothing."""
    child.say("ready")
    child.listen()


def peer(token: str, s3_endpoint_url: str) -> None:
    """An idle program that resource-tracker records and uploads, as it does by itself."""
    from benchmarks.peer import upload_to

    upload_to(s3_endpoint_url)
    from resource_tracker import ResourceTracker, s3_upload
    from resource_tracker.streaming import StreamingManager

    tracker: Any = ResourceTracker(pid=os.getpid(), interval=1, discover_server=False, discover_cloud=False)
    tracker.start()
    combined = Path(tracker.process_tracker_filepath).with_suffix(".combined.csv")
    combined.touch()
    tracker._combined_csv_filepath = str(combined)
    streaming: Any = StreamingManager(
        token,
        csv_path=str(combined),
        upload_interval=UPLOAD_S,
        csv_update_fn=tracker._update_combined_csv,
    )
    streaming.start()
    s3_upload.bucket_region_cache[streaming._upload_uri_prefix.split("/")[2]] = "us-east-1"
    while not streaming.uploaded_uris:
        time.sleep(LOOK_S)
    child.say("ready")
    child.listen()
    tracker.stop()
