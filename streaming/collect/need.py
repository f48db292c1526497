"""What a run used of what it was given, and what to ask for next time. Pure.

CPUs are advised by the 99th percentile of the samples: a burst of one sample is not worth a core. Memory is advised by the
peak, because a job that asks for less is killed. Both get a margin; and a run that was too short or sampled too seldom
says nothing: what a start needs is not what the work needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

SAMPLED = ("timestamp", "process_cpu_usage", "process_memory_mib")
LEAST_SAMPLES = 20
LEAST_DURATION_S = 60.0
CPU_MARGIN, MEMORY_MARGIN = 1.1, 1.2
_CPU_STEP = 0.05  # cores, of the histogram
_ROUND_MIB = 100  # below a GiB


@dataclass
class Need:
    """What one run used: a histogram of its CPU, the peak of its memory. Flat in memory however long the run."""

    sample_count: int = 0
    peak_mib: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    _cpu: Counter[int] = field(default_factory=Counter)

    def add(self, at: float, cpus: float, memory_mib: float) -> None:
        self.first_at = self.first_at or at
        self.last_at = at
        self.sample_count += 1
        self.peak_mib = max(self.peak_mib, memory_mib)
        self._cpu[math.ceil(cpus / _CPU_STEP)] += 1

    def add_sample(self, values: Mapping[str, Any]) -> None:
        """As the sampler gives it."""
        with suppress(TypeError, ValueError, KeyError):
            self.add(*(float(values[name]) for name in SAMPLED))

    @property
    def is_enough(self) -> bool:
        """Whether it was watched for long enough to say anything."""
        return self.sample_count >= LEAST_SAMPLES and self.last_at - self.first_at >= LEAST_DURATION_S

    @property
    def cpus(self) -> float:
        """Cores: 99 of 100 samples used at most that."""
        left = 0.99 * self.sample_count
        for step in sorted(self._cpu):
            left -= self._cpu[step]
            if left <= 0:
                return step * _CPU_STEP
        return 0.0


@dataclass(frozen=True)
class Advice:
    """Of one job, or of all jobs of a name: CPUs of one task, memory of one node. `asked_*` None: no limit is known."""

    used_cpus: float
    used_mib: float
    asked_cpus: float | None
    asked_mib: float | None
    orchestrator: str

    @property
    def cpus(self) -> int:
        return max(1, math.ceil(self.used_cpus * CPU_MARGIN))

    @property
    def memory_mib(self) -> int:
        """With its margin, in steps that people write: 100 MiB, from 1 GiB on whole GiB."""
        wanted = self.used_mib * MEMORY_MARGIN
        step = 1024 if wanted > 1024 else _ROUND_MIB
        return max(step, math.ceil(wanted / step) * step)

    def request(self) -> str:
        """The words that ask for it."""
        gib = f"{self.memory_mib // 1024}" if self.memory_mib % 1024 == 0 else ""
        if self.orchestrator == "slurm":
            return f"--cpus-per-task={self.cpus} --mem={gib + 'G' if gib else f'{self.memory_mib}M'}"
        if self.orchestrator == "kubernetes":
            return f"cpu: {self.cpus}, memory: {gib + 'Gi' if gib else f'{self.memory_mib}Mi'}"
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}, {gib + ' GiB' if gib else f'{self.memory_mib} MiB'}"

    def used_against_asked(self) -> tuple[str, str]:
        """CPUs and memory: "1.8 of 8", "9.8 GiB of 64 GiB"."""
        cpus = f"{self.used_cpus:.1f}" + (f" of {self.asked_cpus:g}" if self.asked_cpus else "")
        memory = memory_text(self.used_mib) + (f" of {memory_text(self.asked_mib)}" if self.asked_mib else "")
        return cpus, memory


def advice_for_one(need: Need, tags: Mapping[str, Any], orchestrator: str) -> Advice | None:
    """Of a run alone, against the limits that its tags tell; None without limits, and for one that was too short."""
    cpus, memory_mib = _number(tags.get("limit_cpus")), _number(tags.get("limit_memory_mib"))
    has_limits = cpus is not None or memory_mib is not None
    return Advice(need.cpus, need.peak_mib, cpus, memory_mib, orchestrator) if need.is_enough and has_limits else None


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def memory_text(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
