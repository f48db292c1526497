"""CSV rows as the tracker writes them: the peer's columns, numbers that wander as real ones do. Always the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

SYSTEM = (
    *("processes", "utime", "stime", "cpu_usage", "memory_free_mib", "memory_used_mib", "memory_buffers_mib"),
    *("memory_cached_mib", "memory_active_mib", "memory_inactive_mib", "disk_read_bytes", "disk_write_bytes"),
    *("disk_space_total_gb", "disk_space_used_gb", "disk_space_free_gb", "net_recv_bytes", "net_sent_bytes"),
    *("gpu_usage", "gpu_vram_mib", "gpu_utilized"),
)
PROCESS = (
    *("pid", "children", "utime", "stime", "cpu_usage", "memory_mib", "disk_read_bytes", "disk_write_bytes"),
    *("gpu_usage", "gpu_vram_mib", "gpu_utilized"),
)
STARTED_AT = 1_760_000_000
_DISTINCT = 20_000  # then the same again with other times: far beyond what gzip remembers


def _line(names: Iterator[str] | tuple[str, ...]) -> bytes:
    return (",".join(f'"{name}"' for name in names) + "\n").encode()


HEADER = _line(("timestamp", *(f"system_{name}" for name in SYSTEM), *(f"process_{name}" for name in PROCESS)))
SYSTEM_HEADER = _line(("timestamp", *SYSTEM))
PROCESS_HEADER = _line(("timestamp", *PROCESS))


class Rows:
    """The samples of one imagined run, one a second."""

    def __init__(self) -> None:
        self._system: list[str] = []
        self._process: list[str] = []
        walk = random.Random(20_261_124)
        used, cached, memory = 6_000.0, 9_000.0, 2_000.0
        for _ in range(_DISTINCT):
            used = abs(used + walk.gauss(0, 20))
            cached = abs(cached + walk.gauss(0, 8))
            memory = abs(memory + walk.gauss(0, 15))
            busy = min(1.0, abs(walk.gauss(0.9, 0.1)))
            self._system.append(_system(walk, used, cached, busy))
            self._process.append(_process(walk, memory, busy))

    def combined(self, number: int) -> bytes:
        """Row `number` as it is in the spool: about 190 bytes."""
        at = number % _DISTINCT
        return f"{_time(number)},{self._system[at]},{self._process[at]}\n".encode()

    def system(self, number: int) -> bytes:
        """The half that the peer's system tracker writes."""
        return f"{_time(number)},{self._system[number % _DISTINCT]}\n".encode()

    def process(self, number: int) -> bytes:
        """The half that the peer's process tracker writes."""
        return f"{_time(number)},{self._process[number % _DISTINCT]}\n".encode()

    def block(self, first: int, count: int) -> bytes:
        """Consecutive rows, joined."""
        return b"".join(map(self.combined, range(first, first + count)))


def _time(number: int) -> float:
    return round(STARTED_AT + number + number % 1000 / 1000, 3)


def _system(walk: random.Random, used: float, cached: float, busy: float) -> str:
    written = walk.choice((0, 0, 0, 4096, 65536, walk.randrange(1 << 20) & ~511))
    memory = (24_000 - used - cached, used, 210.1953, cached, used * 0.8, cached * 0.9)
    return _joined(
        *(walk.randrange(180, 190), round(busy, 2), round(busy / 20, 2), round(busy * 1.05, 4)),
        *(round(mib, 4) for mib in memory),
        *(0, written, 252.87, 30.12, 212.01, walk.randrange(4000), walk.randrange(2000), 0, 0, 0),
    )


def _process(walk: random.Random, memory: float, busy: float) -> str:
    return _joined(
        *(4711, 3, round(busy, 2), round(busy / 50, 2), round(busy * 1.02, 4), round(memory, 4)),
        *(0, walk.choice((0, 0, 0, 4096)), 0, 0, 0),
    )


def _joined(*numbers: float) -> str:
    """As csv.writer writes them."""
    return ",".join(map(repr, numbers))
