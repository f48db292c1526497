"""What the list is told of a run's rows by those who read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

SILENT_AFTER_S = 300.0
SILENT_AFTER_PAUSES = 3.0  # as long as ever before


@dataclass(frozen=True)
class Seen:
    """What is known of a run's rows, and of the pauses between its uploads. Times are seconds since the epoch."""

    row_count: int
    object_count: int
    first: float | None
    last: float | None
    last_upload_at: float | None
    longest_pause_s: float = 0.0
    usual_pause_s: float = 0.0


Curve = Sequence[float | None]


@dataclass(frozen=True)
class Sketch:
    """What the list and a job's page show of a run's rows. Curves: averages over equal stretches from its first row to its
    last (None: no row there)."""

    average_cpu: float | None = None  # cores
    peak_memory_mib: float | None = None
    cpu: Curve = ()
    memory: Curve = ()  # MiB
    cpu_99: float | None = None  # cores of the process: 99 of 100 samples used at most that

    @property
    def values(self) -> tuple[float | None, float | None, float | None, str]:
        """As columns of the list."""
        return self.average_cpu, self.peak_memory_mib, self.cpu_99, json.dumps({"cpu": self.cpu, "memory": self.memory})


def silent_at(seen: Seen) -> float | None:
    """When no word of a run is a long silence: after five minutes, or three times as long as ever before."""
    if seen.last_upload_at is None:
        return None
    return seen.last_upload_at + max(SILENT_AFTER_S, seen.longest_pause_s * SILENT_AFTER_PAUSES)
