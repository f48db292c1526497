"""What to ask for next time, from the rows of past runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from spool import Spool, SpoolError, queries
from streaming.collect.need import SAMPLED, Advice, Need, Used, advice_of
from streaming.read.status import Summary


def advise(runs: Iterable[Summary]) -> Advice | None:
    """Over the runs of jobs that are alike (all of one job, or of one name); None if none of them was long enough."""
    return advice_of(used_by(runs))


def used_by(runs: Iterable[Summary]) -> list[Used]:
    """Each run's need, of those that can be read."""
    return [Used(run.spool_id, run.metadata, need_of(summary.path)) for summary in runs if (run := summary.run)]


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
