"""Row 9: what the tracked program feels: pairs of the same job, untracked and tracked, in one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import child, measure
from benchmarks.table import Figure, Measured
from benchmarks.world import World

INTERVALS_S = (1.0, 0.1)
LIMIT = 1.005


def measure_unfelt(world: World) -> Measured:
    """Each job in a process of its own, in blocks, the order turning."""
    rounds, job_s = world.pick((41, 1.0), (7, 0.3))
    figures: list[Figure] = []
    with world.far_end() as far_end:
        for name, job in {"CPU-bound": "cpu", "allocation-heavy": "allocation"}.items():
            taken = child.call(
                program,
                world.environment(),
                job=job,
                job_s=job_s,
                rounds=rounds,
                folder=str(world.folder("unfelt")),
                address=far_end.address(),
            )
            figures += _figures(name, taken)
    first, *others = figures
    return Measured([first.numbered("9"), *others], [_note(rounds, job_s)])


def _figures(name: str, taken: dict[str, list[list[float]]]) -> list[Figure]:
    figures = []
    for interval_s in INTERVALS_S:
        for at, clock in enumerate(("wall", "CPU")):
            pairs = zip(taken[str(interval_s)], taken["untracked"], strict=True)
            ratios = [mine[at] / without[at] for mine, without in pairs]
            figures.append(_figure(f"{name} job tracked at {interval_s:g} s: {clock} time", ratios, interval_s))
    return figures


def _figure(what: str, ratios: list[float], interval_s: float) -> Figure:
    low, high = measure.median_interval(ratios)
    is_target = interval_s == INTERVALS_S[0]
    is_decided = high <= LIMIT or low > LIMIT
    return Figure(
        "",
        what,
        f"{median(ratios) - 1:+.2%}",
        f"untracked; 95 % sure: {low - 1:+.2%} to {high - 1:+.2%}",
        f"{median(ratios):.4f}",
        ("within 0.5 %" + ("" if is_decided else " (too noisy to say)")) if is_target else "",
        high <= LIMIT if is_target and is_decided else None,
        {"ratio": median(ratios), "low": low, "high": high},
    )


def _note(rounds: int, job_s: float) -> str:
    return (
        f"Row 9: {rounds} rounds of {job_s:g} s blocks, untracked and tracked in turn, in one process that two trackers (and"
        " their uploaders) watch: both stopped by SIGSTOP for an untracked block, one let go on for a tracked one. Median of"
        " the ratios of a round, and where it lies with 95 % confidence (order statistics). Met means: all of that range."
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def program(job: str, job_s: float, rounds: int, folder: str, address: dict[str, str]) -> dict[str, list[list[float]]]:
    """Wall and CPU seconds of each block."""
    work = _calibrated({"cpu": _compute, "allocation": _allocate}[job], job_s)
    trackers = {interval_s: _watched(Path(folder), interval_s, address) for interval_s in INTERVALS_S}
    taken: dict[str, list[list[float]]] = {name: [] for name in ("untracked", *map(str, INTERVALS_S))}
    names = list(taken)
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            pid = None if name == "untracked" else trackers[float(name)]
            with _going_on(pid):
                taken[name].append(_timed(work))
    for pid in trackers.values():
        os.kill(pid, signal.SIGKILL)
    return taken


def _watched(folder: Path, interval_s: float, address: dict[str, str]) -> int:
    """Start a tracker of this process, wait until it records, and stop it for now. Returns its pid."""
    from spool import Spool, queries
    from streaming.processes import launch
    from streaming.record.plan import Delivery, Plan
    from streaming.record.tracker import child_order

    delivery = Delivery(**address, upload_interval_s=60, linger_s=0)
    plan = Plan(folder / f"spools-{interval_s}", delivery, interval_s=interval_s, host_info={}, cloud_info={})
    spool = Spool.create(plan.spool_dir, plan.new_run(os.getpid()))
    order = child_order(spool.path, os.getpid(), plan)
    started = launch.start("tracker", order, log_path=spool.path.with_suffix(".log"))
    while queries.counts(spool.connection).recorded < 2 or spool.run().registration is None:
        time.sleep(0.1)
    spool.close()
    os.kill(started.pid, signal.SIGSTOP)
    return started.pid


@contextmanager
def _going_on(pid: int | None) -> Iterator[None]:
    """Let the tracker go on during the block. It is late then, so it samples at once: that belongs to the block."""
    if pid is not None:
        os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)


def _timed(work: Callable[[], Any]) -> list[float]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return [time.perf_counter() - wall_s, time.process_time() - cpu_s]


def _calibrated(job: Callable[[int], Any], job_s: float) -> Callable[[], Any]:
    """The job, so often that it takes about `job_s`."""
    job(1)
    once_s = min(_timed(lambda: job(1))[0] for _ in range(3))
    count = max(1, round(job_s / once_s))
    return lambda: job(count)


def _compute(count: int) -> int:
    total = 0
    for _ in range(count):
        for number in range(200_000):
            total = (total * 31 + number) & 0xFFFFFFFF
    return total


def _allocate(count: int) -> int:
    """Some 100 MB at a time: large buffers that come and go with the kernel, and many small objects."""
    held = 0
    for _ in range(count):
        large = [bytearray(8 << 20) for _ in range(8)]
        small = [(number, str(number)) for number in range(100_000)]
        held += len(large) + len(small)
    return held
