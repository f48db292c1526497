"""What a run used of what it was given, and what to ask for next time. Pure.

CPUs are advised by the 99th percentile of the samples: a burst of one sample is not worth a core. Memory is advised by the
peak, because a job that asks for less is killed. Both get a margin; and a run that was too short or sampled too seldom
says nothing: what a start needs is not what the work needs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
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

    @classmethod
    def of(cls, sample_count: int, *, cpus: float, peak_mib: float, first_at: float, last_at: float) -> Need:
        """From figures: 99 of 100 samples used at most so many `cpus`."""
        return cls(sample_count, peak_mib, first_at, last_at, Counter({_step(cpus): sample_count}))

    def add(self, at: float, cpus: float, memory_mib: float) -> None:
        self.first_at = self.first_at or at
        self.last_at = at
        self.sample_count += 1
        self.peak_mib = max(self.peak_mib, memory_mib)
        self._cpu[_step(cpus)] += 1

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


def _step(cpus: float) -> int:
    """The step that covers so many cores; a whole number of steps is itself, whatever its last bit."""
    return math.ceil(round(cpus / _CPU_STEP, 6))


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

    @property
    def used(self) -> str:
        cpus, memory = self.used_against_asked()
        return f"{cpus} CPUs, {memory} at its peak"

    def used_against_asked(self) -> tuple[str, str]:
        """CPUs and memory: "1.8 of 8", "9.8 GiB of 64 GiB"."""
        cpus = f"{self.used_cpus:.1f}" + (f" of {self.asked_cpus:g}" if self.asked_cpus else "")
        memory = memory_text(self.used_mib) + (f" of {memory_text(self.asked_mib)}" if self.asked_mib else "")
        return cpus, memory


@dataclass(frozen=True)
class Used:
    """A run (by any id), its metadata, and what it used."""

    run: str
    metadata: Mapping[str, Any]
    need: Need

    def tag(self, name: str) -> str:
        tags = self.metadata.get("tags")
        return str(tags.get(name, "")) if isinstance(tags, Mapping) else ""

    def limit(self, name: str) -> float | None:
        try:
            return float(self.tag(name)) or None
        except ValueError:
            return None

    @property
    def has_limits(self) -> bool:
        return any(self.limit(name) is not None for name in ("limit_cpus", "limit_memory_mib"))

    @property
    def is_one_of_many(self) -> bool:
        """Whether others share the memory of its node."""
        return self.tag("job") != "" and self.tag("world_size") not in ("", "1")


def advice_of(runs: Iterable[Used]) -> Advice | None:
    """CPUs: of the task that used most. Memory: of the node whose tasks used most together, each at its own peak. None if
    none of them was watched for long enough."""
    kept = [run for run in runs if run.need.is_enough]
    if not kept:
        return None
    of_nodes: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for run in kept:
        of_nodes[_place(run)] += run.need.peak_mib
    return Advice(
        used_cpus=max(run.need.cpus for run in kept),
        used_mib=max(of_nodes.values()),
        asked_cpus=max((limit for run in kept if (limit := run.limit("limit_cpus"))), default=None),
        asked_mib=max((limit for run in kept if (limit := run.limit("limit_memory_mib"))), default=None),
        orchestrator=str(kept[0].metadata.get("orchestrator") or ""),
    )


def _place(run: Used) -> tuple[str, ...]:
    """What shares the memory that was asked for: the tasks of one step of one attempt on one node."""
    return run.tag("job") or run.run, *(run.tag(name) for name in ("array_task", "step", "attempt", "host"))


def told(runs: Iterable[Used]) -> dict[str, str]:
    """What is said of a run, or of all runs of a job, everywhere: what was used of what was asked for, and what to ask for
    next time. Nothing where no limit is known."""
    runs = list(runs)
    if not any(run.has_limits for run in runs):
        return {}
    advice = advice_of(runs)
    if advice is None:
        return {"next time": "too short to tell what to ask for"}
    ask = f"ask for {advice.request()}"
    if len(runs) == 1 and runs[0].is_one_of_many:
        ask = f"by all its runs: tracker-stream advise {runs[0].tag('job')}"
    return {"used": advice.used, "next time": ask}


def memory_text(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
