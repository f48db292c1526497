"""Row 6: what the import costs a program, in time and memory, over an interpreter that imports nothing."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks import measure
from benchmarks.table import Figure, Measured
from benchmarks.world import World

OURS = "from streaming import StreamingManager"
PEER = "from resource_tracker.streaming import StreamingManager"


def measure_import(world: World) -> Measured:
    """Fresh interpreters in turn; each times one statement."""
    rounds = world.pick(25, 9)
    taken: dict[str, list[tuple[float, int]]] = {OURS: [], PEER: []}
    for number in range(rounds + 1):
        for statement, found in taken.items():
            cost = _imported(world, statement)
            if number:  # the first round warms the page cache
                found.append(cost)
    ours_s, peer_s = ([seconds for seconds, _ in found] for found in taken.values())
    ours_bytes, peer_bytes = (median(grown for _, grown in found) for found in taken.values())
    share = measure.ratio_of(ours_s, peer_s)
    return Measured(
        [
            Figure(
                "6",
                f"`{OURS}`: time",
                f"{median(ours_s) * 1e3:.1f} ms",
                f"resource_tracker.streaming: {median(peer_s) * 1e3:.1f} ms",
                f"{share:.2f}",
                "at most 0.33",
                share <= 1 / 3,
                {"ours_s": median(ours_s), "peer_s": median(peer_s), "ratio": share},
            ),
            Figure(
                "",
                "  the same: memory (PSS)",
                f"{ours_bytes / measure.MIB:.1f} MiB",
                f"resource_tracker.streaming: {peer_bytes / measure.MIB:.1f} MiB",
                f"{ours_bytes / peer_bytes:.2f}",
                "under 5 MB",
                ours_bytes < 5e6,
                {"ours_bytes": ours_bytes, "peer_bytes": peer_bytes},
            ),
        ],
        [
            "Row 6: the import of the class itself, not only of the package's name. What `start()` needs beyond that is"
            " imported there, and counted in row 5."
        ],
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
