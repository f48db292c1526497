"""What to ask for next time, from the rows of past runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from spool import Spool, SpoolError, queries
from spool.model import Run
from streaming.collect.need import SAMPLED, Advice, Need
from streaming.read.jobs import tag_of
from streaming.read.status import Summary


def advise(runs: Sequence[Summary]) -> Advice | None:
    """Over the runs of jobs that are alike (all of one job, or of one name); None if none of them was long enough."""
    needs = [(summary.run, need) for summary in runs if summary.run and (need := need_of(summary.path)).is_enough]
    return advice_of(needs)


def advice_of(needs: Iterable[tuple[Run, Need]]) -> Advice | None:
    """CPUs: of the task that used most. Memory: of the node whose tasks used most together, each at its own peak."""
    kept = list(needs)
    if not kept:
        return None
    of_nodes: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for run, need in kept:
        of_nodes[_place(run)] += need.peak_mib
    return Advice(
        used_cpus=max(need.cpus for _, need in kept),
        used_mib=max(of_nodes.values()),
        asked_cpus=_asked(kept, "limit_cpus"),
        asked_mib=_asked(kept, "limit_memory_mib"),
        orchestrator=str(kept[0][0].metadata.get("orchestrator") or ""),
    )


def _place(run: Run) -> tuple[str, ...]:
    """What shares the memory that was asked for: the tasks of one step of one attempt on one node."""
    job = tag_of(run, "job") or run.spool_id
    return job, *(tag_of(run, name) for name in ("array_task", "step", "attempt", "host"))


def _asked(kept: Sequence[tuple[Run, Need]], tag: str) -> float | None:
    """The largest that any of them was given."""
    found = []
    for run, _ in kept:
        with suppress(ValueError):
            found.append(float(tag_of(run, tag)))
    return max(found, default=None)


def need_of(path: Path) -> Need:
    """What a run used, by the rows that its spool holds; nothing of a spool that cannot be read."""
    need = Need()
    with suppress(SpoolError), closing(Spool(path)) as spool:
        for header, rows in queries.exported(spool.connection):
            _add_rows(need, header, rows)
    return need


def _add_rows(need: Need, header: bytes, rows: bytes) -> None:
    names = [name.strip(b'"\r\n') for name in header.split(b",")]
    try:
        places = [names.index(name.encode()) for name in SAMPLED]
    except ValueError:
        return  # not our columns
    for row in rows.splitlines():
        cells = row.split(b",")
        with suppress(ValueError, IndexError):
            need.add(*(float(cells[place]) for place in places))
