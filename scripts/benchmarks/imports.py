"""Row 6: what the import costs a program, in time and memory, over an interpreter that imports nothing."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks import measure
from benchmarks.table import Figure, Measured
from benchmarks.world import World

PACKAGE = "import streaming"
CLASS = "from streaming import StreamingManager"
PEER = "import resource_tracker.streaming"


def measure_import(world: World) -> Measured:
    """Fresh interpreters in turn; each times one statement."""
    rounds = world.pick(25, 9)
    taken: dict[str, list[tuple[float, int]]] = {PACKAGE: [], CLASS: [], PEER: []}
    for number in range(rounds + 1):
        for statement, found in taken.items():
            cost = _imported(world, statement)
            if number:  # the first round warms the page cache
                found.append(cost)
    seconds = {statement: [each for each, _ in found] for statement, found in taken.items()}
    grown = {statement: median(each for _, each in found) for statement, found in taken.items()}
    return Measured(
        [
            _time_figure("6", PACKAGE, seconds, is_target=True),
            _memory_figure(PACKAGE, grown, is_target=True),
            _time_figure("", CLASS, seconds, is_target=False),
            _memory_figure(CLASS, grown, is_target=False),
        ],
        [
            "Row 6: the package loads each of its names when it is first asked for, so its bare import is nearly free;"
            " the lines below it are the class with all that `start()` needs (nothing is left to be imported there). Most"
            " of it is the standard library: dataclasses, logging, pathlib, subprocess, hashlib, sqlite3, json, typing."
        ],
    )


def _time_figure(row: str, statement: str, seconds: dict[str, list[float]], *, is_target: bool) -> Figure:
    ours, peer = seconds[statement], seconds[PEER]
    share = measure.ratio_of(ours, peer)
    return Figure(
        row,
        f"`{statement}`: time",
        f"{median(ours) * 1e3:.1f} ms",
        f"`{PEER}`: {median(peer) * 1e3:.1f} ms",
        f"{share:.2f}",
        "at most 0.33" if is_target else "",
        share <= 1 / 3 if is_target else None,
        {"ours_s": median(ours), "peer_s": median(peer), "ratio": share},
    )


def _memory_figure(statement: str, grown: dict[str, float], *, is_target: bool) -> Figure:
    ours, peer = grown[statement], grown[PEER]
    return Figure(
        "",
        f"`{statement}`: memory (PSS)",
        f"{ours / measure.MIB:.1f} MiB",
        f"`{PEER}`: {peer / measure.MIB:.1f} MiB",
        f"{ours / peer:.2f}",
        "under 5 MB" if is_target else "",
        ours < 5e6 if is_target else None,
        {"ours_bytes": ours, "peer_bytes": peer},
    )


# A program of its own: nothing is imported before that the statement would import.
_PROBE = """
import os, time
def pss():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
pss()
before = pss()
began_at = time.perf_counter()
{statement}
took_s = time.perf_counter() - began_at
print(took_s, pss() - before)
"""


def _imported(world: World, statement: str) -> tuple[float, int]:
    """Seconds and bytes of the statement in a fresh interpreter."""
    program = [sys.executable, "-c", _PROBE.format(statement=statement)]
    text = subprocess.run(program, check=True, capture_output=True, env=world.environment()).stdout
    seconds, grown = text.split()
    return float(seconds), int(grown)
