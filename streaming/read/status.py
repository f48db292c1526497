"""A run's state for people: what is recorded, what arrived, what waits and why. Read from its spool, changing nothing."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from spool import Run, RunState, SegmentState, Spool, SpoolError, directory, ownership, queries
from spool.errors import SpoolDamaged
from spool.model import Backlog, Counts, iso_utc
from streaming.errors import Defect, Unauthorized
from streaming.read.quantity import duration
from streaming.upload import life
from streaming.upload.life import Sight

REFUSED_FOR_GOOD, STILL_WAITING, TOKEN_REFUSED = 1, 3, 4
DISK_FULL_BYTES = 1 << 20
NO_TOKEN = "no token"
_NO_ROWS = Counts(0, 0, 0, 0, 0)
_NO_BACKLOG = Backlog(0, 0, None)


class Condition(str, Enum):
    """What a person is shown of a run, and the exit code of a command that was to deliver it."""

    exit_code: int

    def __new__(cls, word: str, exit_code: int) -> Condition:
        member = str.__new__(cls, word)
        member._value_ = word
        member.exit_code = exit_code
        return member

    RECORDING = "recording", 0  # its tracker appends
    SILENT = "silent", STILL_WAITING  # its tracker is on another host, and nothing was seen of it for a while
    WAITING = "waiting", STILL_WAITING  # its tracker is gone or has ended it, and something is not delivered
    DELIVERED = "delivered", 0  # the service has acknowledged its end
    FAILED = "failed", REFUSED_FOR_GOOD  # something of it was refused for good: a person must decide
    DAMAGED = "damaged", REFUSED_FOR_GOOD  # its file, or some of its rows, fail their checksums
    UNREADABLE = "unreadable", REFUSED_FOR_GOOD  # its file cannot be opened: somebody else's, a newer version's, locked


_CODE_OF_CAUSE = {Unauthorized.cause: TOKEN_REFUSED, Defect.cause: REFUSED_FOR_GOOD}


@dataclass(frozen=True)
class Summary:
    """One run. Rows are counted by what became of them; times are seconds since the epoch."""

    path: Path
    condition: Condition
    problem: str | None = None
    cause: str | None = None
    problem_at: float | None = None
    run: Run | None = None
    counts: Counts = _NO_ROWS
    backlog: Backlog = _NO_BACKLOG
    last_row_at: float | None = None
    is_owned: bool = False
    silent_s: float | None = None  # of an open run that is recorded elsewhere: since when nothing of it was seen

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def short_name(self) -> str:
        """The beginning of the name's random part, which is enough to name the run in a command."""
        return directory.short_name(self.path)

    @property
    def job_name(self) -> str | None:
        name = self.run.metadata.get("job_name") if self.run else None
        return None if name is None else str(name)

    @property
    def exit_code(self) -> int:
        """0 if nothing is left to do: a run that records well is on its way, whatever it has not sent yet."""
        if self.cause in _CODE_OF_CAUSE:
            return _CODE_OF_CAUSE[self.cause]
        is_in_trouble = self.condition is Condition.RECORDING and self.problem is not None
        return STILL_WAITING if is_in_trouble else self.condition.exit_code

    @property
    def is_finished(self) -> bool:
        """Whether the service has acknowledged its end (rows may have been refused all the same)."""
        return self.run is not None and self.run.state is RunState.FINISHED

    @property
    def lost_row_count(self) -> int:
        """Rows that its tracker could not keep anywhere, as far as it could note that."""
        return self.run.tracker.lost_row_count if self.run else 0

    def duration_s(self, now: float) -> float | None:
        """Up to its end; of a run that records, up to now; of one whose tracker died, up to its last row."""
        if self.run is None:
            return None
        if self.run.ended_at is not None:
            return self.run.ended_at - self.run.started_at
        until = now if self.condition is Condition.RECORDING else self.last_row_at or self.run.started_at
        return max(0.0, until - self.run.started_at)

    def as_json(self, now: float) -> dict[str, Any]:
        """Stable keys; times as ISO-8601 UTC, sizes in bytes, durations in seconds; None where nothing is known."""
        run = self.run
        metadata = run.metadata if run else {}
        return {
            "run": self.name,
            "path": str(self.path),
            "state": self.condition.value,
            "run_id": run.registration.run_id if run and run.registration else None,
            "page_url": run and run.page_url,
            "job_name": self.job_name,
            "metadata": metadata,
            "started_at": _iso(run.started_at if run else None),
            "ended_at": _iso(run.ended_at if run else None),
            "finished_at": _iso(run.finished_at if run else None),
            "last_row_at": _iso(self.last_row_at),
            "duration_s": self.duration_s(now),
            "silent_s": self.silent_s,
            "exit_code": run.exit_code if run else None,
            "run_status": run.run_status if run else None,
            "rows": {
                "recorded": self.counts.recorded,
                "sent": self.counts.sent,
                "waiting": self.counts.waiting,
                "rejected": self.counts.rejected,
                "lost": self.lost_row_count,
            },
            "waiting_bytes": self.backlog.csv_bytes if self.counts.waiting else 0,
            "waiting_since": _iso(self.backlog.oldest_at if self.counts.waiting else None),
            "objects": self.counts.objects,
            "is_being_delivered": self.is_owned,
            "problem": self.problem and {"cause": self.cause, "text": self.problem, "at": _iso(self.problem_at)},
        }


def exit_code_of(runs: Iterable[Summary]) -> int:
    """Of several, what is worth knowing first: a refused token, then what trying again can mend, then what it cannot."""
    return max((run.exit_code for run in runs), default=0)


def _iso(at: float | None) -> str | None:
    return None if at is None else iso_utc(at)


def summarize(path: Path, *, clock: Callable[[], float] = time.time) -> Summary:
    """The state of the run at `path`; a file that cannot be read has a state too. Raises nothing of spool's."""
    try:
        with closing(Spool(path)) as spool:
            return _read(spool, clock)
    except SpoolDamaged as error:
        return Summary(path, Condition.DAMAGED, str(error), "damaged")
    except SpoolError as error:
        return Summary(path, Condition.UNREADABLE, str(error), "unreadable")


def summaries(in_directory: Path) -> list[Summary]:
    """All runs of a directory, oldest first; without those that are only just being created (still empty)."""
    return [summarize(path) for path in directory.spool_paths(in_directory) if not _is_empty(path)]


def _is_empty(path: Path) -> bool:
    with suppress(OSError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_size == 0
    return False


def _read(spool: Spool, clock: Callable[[], float]) -> Summary:
    run = spool.run()
    counts = queries.counts(spool.connection)
    sight = life.look(spool, clock=clock) if run.state is RunState.OPEN else Sight(is_gone=True)
    condition = _condition(spool, run, sight)
    found = _silence(run, sight) if condition is Condition.SILENT else _problem(spool, run, condition)
    problem, cause, problem_at = found
    return Summary(
        spool.path,
        condition,
        problem,
        cause,
        problem_at,
        run,
        counts,
        queries.backlog(spool.connection),
        queries.last_append_at(spool.connection),
        ownership.is_owned(spool.path),
        sight.silent_s,
    )


def _condition(spool: Spool, run: Run, sight: Sight) -> Condition:
    rejected = spool.segments(SegmentState.REJECTED)
    if rejected:  # a segment that its checksum set aside was never refused by the store
        return Condition.DAMAGED if any(not segment.refusal_count for segment in rejected) else Condition.FAILED
    if run.state is RunState.FINISHED:
        return Condition.DELIVERED
    if run.parked:
        return Condition.FAILED
    if sight.is_silent:
        return Condition.SILENT
    return Condition.WAITING if sight.is_gone else Condition.RECORDING


def _silence(run: Run, sight: Sight) -> tuple[str, str, None]:
    """Since when nothing was seen of a tracker elsewhere, and what will become of its run."""
    host = run.tracker.host.rpartition("/")[2] or "another host"
    text = (
        f"silent for {duration(sight.silent_s)} on {host}; ended after {duration(sight.limit_s)} of silence,"
        " or now by: tracker-stream drain --ended RUN"
    )
    return text, "silent tracker", None


def _problem(spool: Spool, run: Run, condition: Condition) -> tuple[str | None, str | None, float | None]:
    """What stands in the way, its cause in a word or two, and since when."""
    if run.parked:
        return run.parked, "parked", None
    rejected = spool.segments(SegmentState.REJECTED)
    if rejected:
        cause = "damaged" if condition is Condition.DAMAGED else "refused for good"
        return f"{len(rejected)} segment(s) are set aside: {rejected[0].reason}", cause, rejected[0].sealed_at
    if condition is Condition.RECORDING and _free_bytes(spool.path.parent) < DISK_FULL_BYTES:
        return f"no space left in {spool.path.parent}", "disk full", None
    if run.problem and condition in (Condition.RECORDING, Condition.WAITING):
        return run.problem, run.problem_cause or None, run.problem_at
    if condition is Condition.WAITING and not run.has_token:
        return "it was recorded without a token", NO_TOKEN, None
    return None, None, None


def _free_bytes(in_directory: Path) -> int:
    with suppress(OSError, AttributeError):
        found = os.statvfs(in_directory)
        return found.f_bavail * found.f_frsize
    return DISK_FULL_BYTES
