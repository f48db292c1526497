"""Jobs: the runs that a scheduler or launcher started as one, told by the tag `job` that each of them carries. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from spool.model import Run
from streaming.read.status import Condition, Summary


@dataclass(frozen=True)
class Job:
    """One or more runs, oldest first. A run that belongs to no job is one by itself, without an id."""

    id: str
    runs: Sequence[Summary]

    @property
    def name(self) -> str:
        return next((run.job_name for run in self.runs if run.job_name), "")

    @cached_property
    def conditions(self) -> list[tuple[Condition, int]]:
        """How many of its runs are in which state, in the order of `Condition`."""
        numbers = Counter(run.condition for run in self.runs)
        return [(condition, numbers[condition]) for condition in Condition if numbers[condition]]

    @property
    def started_at(self) -> float | None:
        return min((run.run.started_at for run in self.runs if run.run), default=None)

    def duration_s(self, now: float) -> float | None:
        """From the first start to the last end; what still goes on, up to now."""
        ends = [run.run.started_at + (run.duration_s(now) or 0.0) for run in self.runs if run.run]
        began_at = self.started_at
        return max(ends) - began_at if began_at is not None else None

    def extent(self) -> str:
        """How large it is: "16 runs on 2 nodes, 2 attempts"; empty for one run."""
        if len(self.runs) == 1:
            return ""
        counts = (
            ("node", self._distinct("host")),
            ("array task", self._distinct("array_task")),
            ("attempt", self._distinct("attempt")),
        )
        parts = [f"{number} {what}s" for what, number in counts if number > 1]
        return ", ".join([f"{len(self.runs)} runs", *parts])

    def _distinct(self, tag: str) -> int:
        return len({text for run in self.runs if (text := tag_of(run.run, tag))})


def grouped(runs: Iterable[Summary]) -> list[Job]:
    """The jobs of some runs, in the order of their first runs."""
    members: dict[str, list[Summary]] = {}
    for run in runs:
        job_id = job_id_of(run.run)
        members.setdefault(f"job {job_id}" if job_id else f"run {run.path}", []).append(run)
    return [Job(job_id_of(runs[0].run), runs) for runs in members.values()]


def job_id_of(run: Run | None) -> str:
    """The id of the job that a run is a part of; "" for none."""
    return tag_of(run, "job")


def tag_of(run: Run | None, name: str) -> str:
    """One of a run's tags; "" without it. Metadata comes from outside: whatever shape it has, this is a text."""
    tags = run.metadata.get("tags") if run else None
    text = tags.get(name) if isinstance(tags, dict) else None
    return "" if text is None else str(text)


def place_of(run: Run | None) -> str:
    """Which part of its job a run is: "step 0, rank 3 of 8, n1, attempt 1"."""
    tag = {
        name: tag_of(run, name) for name in ("array_task", "het_group", "step", "rank", "world_size", "host", "attempt")
    }
    parts = [
        f"task {tag['array_task']}" if tag["array_task"] else "",
        f"component {tag['het_group']}" if tag["het_group"] else "",
        "batch script" if tag["step"] == "batch" else f"step {tag['step']}" if tag["step"] else "",
        f"rank {tag['rank']}" + (f" of {tag['world_size']}" if tag["world_size"] else "") if tag["rank"] else "",
        tag["host"],
        f"attempt {tag['attempt']}" if tag["attempt"] not in ("", "0") else "",
    ]
    return ", ".join(part for part in parts if part)


def place_key(run: Run | None) -> list[tuple[int, str]]:
    """Sorts the runs of a job: by task, component, step and attempt, then by rank; numbers as numbers."""
    tags = [tag_of(run, name) for name in ("array_task", "het_group", "step", "attempt", "rank")]
    return [(int(text), "") if text.isdecimal() and len(text) < 10 else (-1, text) for text in tags]
