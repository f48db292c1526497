"""Whether a run's tracker lives, as far as it can be seen from here: the decision whether a run may be ended by others.

* Here (this host, this pid namespace) the kernel tells, and nothing else counts: nobody's word ends a living tracker.
* Elsewhere its rows and heartbeats are all that can be seen. If this is the file that the tracker writes to, which hosts
  see that share the directory, then silence means that it is gone, and so does the scheduler's word that its job is over.
* A copy gets no rows and no heartbeats, however well the tracker does. It is never taken for gone before a day has
  passed, or a person says so.

A guess may be wrong: a node that hung for minutes, a suspended job, clocks that differ. Then the tracker finds its run
ended and goes on in a new one (`streaming.record.recorder`), so that no row depends on the guess.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from spool import Run, Spool, Tracker, directory, queries, system
from streaming import config
from streaming.upload import slurm

COPY_SILENCE_S = 86_400.0  # also of a run of an older version, which has no heartbeat
SILENCE_LEAST_S, SILENCE_MOST_S = 300.0, 900.0
HEARTBEATS_MISSED = 15  # until the silence of the tracker's own file means that it is gone
NOTICED_S = 10.0  # silence is told of after this, and three heartbeats
RECENT_S = SILENCE_LEAST_S  # whatever was seen within this time is spared by a word that names no run
FRESH_S = 3.0  # the scheduler is not asked about a tracker that was seen within this time


@dataclass(frozen=True)
class Sight:
    """What can be seen of a tracker. `silent_s`: since when nothing, None for one that runs here; `limit_s`: until when
    that is borne."""

    is_gone: bool
    silent_s: float | None = None
    limit_s: float = COPY_SILENCE_S
    is_noticeable: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether it may well be gone, and nobody knows."""
        return self.is_noticeable and not self.is_gone


def look(spool: Spool, *, clock: Callable[[], float] = time.time) -> Sight:
    """What can be seen of the run's tracker now. May ask the scheduler, for a few seconds at most."""
    run = spool.run()
    tracker = run.tracker
    if system.is_here(tracker):
        return Sight(is_gone=not system.is_alive(tracker))
    silent_s = max(0.0, clock() - _last_sign_at(spool, run))
    is_original = tracker.heartbeat_s > 0 and directory.is_original(spool.path, tracker.file_mark)
    limit_s = _limit_s(tracker) if is_original else COPY_SILENCE_S
    is_over = is_original and silent_s > FRESH_S and slurm.job_is_over(tracker.slurm_job)
    is_noticeable = silent_s > NOTICED_S + 3 * (tracker.heartbeat_s or config.HEARTBEAT_S)
    return Sight(is_over or silent_s > limit_s, silent_s, limit_s, is_noticeable)


def _last_sign_at(spool: Spool, run: Run) -> float:
    """By the tracker's clock."""
    return max(queries.last_append_at(spool.connection) or run.started_at, run.tracker.heartbeat_at)


def _limit_s(tracker: Tracker) -> float:
    return min(SILENCE_MOST_S, max(SILENCE_LEAST_S, HEARTBEATS_MISSED * tracker.heartbeat_s))


def tracker_is_gone(
    spool: Spool, *, has_ended: bool = False, spares_recent: bool = False, clock: Callable[[], float] = time.time
) -> bool:
    """Whether nobody appends to this run any more, as far as this machine can tell.

    `has_ended`: the user says so. That decides over a tracker elsewhere, not over one that is seen to live here, and with
    `spares_recent` not over one that was seen within the last minutes.
    """
    sight = look(spool, clock=clock)
    is_said = has_ended and sight.silent_s is not None and not (spares_recent and sight.silent_s < RECENT_S)
    return sight.is_gone or is_said
