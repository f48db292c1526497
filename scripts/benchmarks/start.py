"""Row 5: how long `start()` holds up its caller, first start in a fresh process, beside resource-tracker's."""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks import child, measure
from benchmarks.table import Figure, Measured
from benchmarks.world import World
from tests.support.listener import BlackHole

LIMIT_S = 0.06
GIGABYTES, THREADS = 4, 50
QUICK_PATIENCE_S = 5.0
CONDITIONS = {
    "plain": "start(): plain",
    "black hole": "start(): every address a black hole",
    "heavy": f"start(): caller with {GIGABYTES} GB touched and {THREADS} threads",
}


def measure_start(world: World) -> Measured:
    """Fresh processes in turn, ours and the peer's; the peer in the black hole only once, for it takes its full time-out."""
    rounds, heavy_rounds = world.pick(15, 5), world.pick(5, 2)
    with ExitStack() as stack:
        far_end = stack.enter_context(world.far_end()).address()
        hole = stack.enter_context(BlackHole())
        nowhere = {**far_end, "api_url": hole.url, "s3_endpoint_url": hole.url}
        lost = stack.enter_context(ThreadPoolExecutor()).submit(_peer_in_black_hole, world, nowhere)
        plain = _in_turn(world, rounds, ours=far_end, peer=far_end)
        dark = _in_turn(world, rounds, ours=nowhere)
        heavy = _in_turn(world, heavy_rounds, ours=far_end, peer=far_end, is_heavy=True)
        dark["peer"] = [lost.result()]
    taken = {"plain": plain, "black hole": dark, "heavy": heavy}
    return Measured(
        [_figure(name, found, number) for number, (name, found) in enumerate(taken.items())], [_note(world)]
    )


def _in_turn(
    world: World, rounds: int, *, ours: Any, peer: Any = None, is_heavy: bool = False
) -> dict[str, list[float]]:
    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: child.call(
            ours_started, world.environment(), folder=str(world.folder("start")), address=ours, is_heavy=is_heavy
        )
    }
    if peer is not None:
        contestants["peer"] = lambda: child.call(
            peer_started, world.environment(SENTINEL_API_URL=peer["api_url"]), token=peer["token"], is_heavy=is_heavy
        )
    return measure.interleaved(contestants, rounds)


def _peer_in_black_hole(world: World, nowhere: dict[str, str]) -> float:
    """Seconds until it returns, by its own time-out of 30 s; a quick run does not wait for that."""
    patience_s = world.pick(60.0, QUICK_PATIENCE_S)
    environment = world.environment(SENTINEL_API_URL=nowhere["api_url"])
    with child.Child(peer_started, environment, token=nowhere["token"], is_heavy=False) as lost:
        taken: float | None = lost.hear(patience_s)
    return patience_s if taken is None else taken


def _figure(name: str, taken: dict[str, list[float]], number: int) -> Figure:
    ours, peer = median(taken["ours"]), median(taken["peer"])
    return Figure(
        "" if number else "5",
        CONDITIONS[name],
        f"{ours * 1e3:.0f} ms",
        f"resource-tracker's start(): {_peer_text(peer)}",
        f"{ours / peer:.3f}",
        "under 60 ms",
        ours < LIMIT_S,
        {"ours_s": ours, "peer_s": peer, "ours_all_s": taken["ours"]},
    )


def _peer_text(seconds: float) -> str:
    if seconds < QUICK_PATIENCE_S:
        return f"{seconds * 1e3:,.0f} ms"
    return "over 5 s" if seconds == QUICK_PATIENCE_S else f"{seconds:.0f} s, and then it gives up"


def _note(world: World) -> str:
    return (
        "Row 5: constructor and first start() together, in a fresh process, so what is imported at first use is counted"
        " (the class itself was imported before: row 6)."
        f" Medians of {world.pick(15, 5)} ({world.pick(5, 2)} with {GIGABYTES} GB). The black hole is a loopback address that"
        " never answers. The threads wait. The peer is ResourceTracker(sentinel_token=..., discover_cloud=False).start(): it"
        " starts its two trackers and registers, in the black hole until its time-out (measured once)."
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def ours_started(folder: str, address: dict[str, str], is_heavy: bool) -> None:
    """Say how long constructor and start took."""
    burden = _burden() if is_heavy else None
    from streaming import StreamingManager

    csv_path = os.path.join(folder, "rows.csv")
    began_at = time.perf_counter()
    manager = StreamingManager(
        address["token"],
        csv_path,
        spool_dir=os.path.join(folder, "spools"),
        api_url=address["api_url"],
        s3_endpoint_url=address["s3_endpoint_url"],
    )
    manager.start()
    child.say(time.perf_counter() - began_at)
    del burden
    manager._recorder.close()  # type: ignore[union-attr]
    os._exit(0)  # as if killed: the uploader ends the run by itself, or is ended with this world


def peer_started(token: str, is_heavy: bool) -> None:
    """The same of resource-tracker, as its documentation starts it."""
    burden = _burden() if is_heavy else None
    from resource_tracker import ResourceTracker

    began_at = time.perf_counter()
    tracker = ResourceTracker(sentinel_token=token, discover_cloud=False)
    tracker.start()
    took_s = time.perf_counter() - began_at
    del burden
    for process in (tracker.process_tracker_process, tracker.system_tracker_process):
        os.kill(process.pid or 0, signal.SIGKILL)
    tracker.cleanup()
    child.say(took_s)
    os._exit(0)


def _burden() -> Any:
    """Memory that is really there, and threads that wait."""
    memory = mmap.mmap(-1, GIGABYTES << 30)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    waiting = threading.Event()
    for _ in range(THREADS):
        threading.Thread(target=waiting.wait, daemon=True).start()
    return memory
