"""Taking figures: CPU and memory of any process, interleaved repetitions, medians and how sure they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from statistics import median

MIB = 1 << 20
_CPU_CLOCK = 2  # CPUCLOCK_SCHED of the kernel: nanoseconds, all threads


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, by the kernel's own clock for it (not in ticks of 10 ms)."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def pss_bytes(pid: int) -> int:
    """Proportional set size: what the process holds alone, and its share of what it holds with others."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def peak_rss_bytes(pid: int | None = None) -> int:
    """The largest resident set the process ever had."""
    return _kib(Path(f"/proc/{pid or 'self'}/status"), "VmHWM:")


def _kib(path: Path, name: str) -> int:
    with open(path, encoding="ascii", errors="replace") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def interleaved(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every contestant once per round, each round beginning with another one."""
    names = list(contestants)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            taken[name].append(contestants[name]())
    return taken


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round: what slows the machine for a while slows both."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where the true median lies with this confidence, by order statistics: no assumption on the distribution."""
    ordered = sorted(values)
    count = len(ordered)
    below = 0.0
    for rank in range(count // 2):
        below += comb(count, rank) / 2**count
        if 2 * below > 1 - confidence:
            return ordered[max(rank - 1, 0)], ordered[min(count - rank, count - 1)]
    return ordered[0], ordered[-1]
