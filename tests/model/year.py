"""A year of many runs in minutes: real turns at a virtual clock, with the real pauses of runs and of an address.

Trackers append, end and die; the far end goes down and loses replies; the engine dies at any failpoint, and another takes
over. Everything is drawn from a seed. Each run that is over is judged, and at the end, without faults, all must be over.

    python -m tests.model.year --days 365 --runs 30 --seed 1
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

from spool import Spool, directory
from spool.recovery import recover
from streaming.upload import run_delivery
from streaming.upload.job import Job
from streaming.upload.model import Outcome
from streaming.upload.peers import Peer
from streaming.upload.reachability import Address, Reached
from streaming.upload.run_delivery import RunDelivery
from tests.model.engines import TERMS, Crash, made
from tests.model.positions import NOW
from tests.model.world import Violation
from tests.support import oracle, plays
from tests.support.memory_far_end import DOWN, FINE, REPLY_LOST, MemoryFarEnd
from tests.support.memory_far_end import Outcome as Answer
from tests.support.oracle import Evidence, Told

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
APPEND_S = 8 * HOUR_S  # between two batches of a run, on average
INTERVAL_S = DAY_S  # between two uploads
LIFE_S = 12 * DAY_S
UP_S, DOWN_S = 5 * DAY_S, 0.5 * HOUR_S  # the far end, on average
LOST_SHARE = 0.05  # of replies
CRASH_SHARE = 0.01  # of failpoints
DEATH_SHARE = 0.3  # of trackers that die rather than end their run
RECOVERY_S = 30 * DAY_S


@dataclass(eq=False)
class Track:
    """One run: its job in the engine, and how far its tracker is. `ends_at`: of the tracker."""

    path: Path
    job: Job
    ends_at: float
    appended: int = 0
    is_dead: bool = False


class Year:
    """So many runs at once for so long; then the rest without faults."""

    def __init__(self, place: Path, *, runs: int, days: float, seed: int) -> None:
        self._place = place
        self._runs = runs
        self._until = days * DAY_S
        self._chance = random.Random(seed)
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self._far_end = MemoryFarEnd()
        self._tracks: dict[Path, Track] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._is_down = False
        self._start_engine()

    def pass_by(self) -> None:
        self._at(self._chance.expovariate(1 / UP_S), self._toggle)
        for _ in range(self._runs):
            self._start_run()
        while self._events and self._tracks:
            self.now, _, event = heapq.heappop(self._events)
            if self.now > self._until + RECOVERY_S:
                raise Violation(f"{len(self._tracks)} runs are not delivered after {self.now / DAY_S:.0f} days", ())
            event()

    @property
    def _has_faults(self) -> bool:
        return self.now < self._until

    def _at(self, at: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), event))

    # -- trackers

    def _start_run(self) -> None:
        new = replace(plays.new_run(token=""), started_at=NOW + self.now)
        with closing(Spool.create(self._place, new, clock=self._clock)) as spool:
            path = spool.path
        ends_at = self.now + self._chance.expovariate(1 / LIFE_S)
        track = self._tracks[path] = Track(path, self._job(path), ends_at)
        self._at(self.now, lambda: self._append(track))
        self._due(track, self.now)

    def _append(self, track: Track) -> None:
        if self.now >= min(track.ends_at, self._until):
            self._end(track)
            return
        with closing(Spool(track.path, clock=self._clock)) as spool:
            spool.append([plays.batch_of(track.appended)])
        track.appended += 1
        self.counts["batches"] += 1
        self._at(self.now + self._chance.expovariate(1 / APPEND_S), lambda: self._append(track))

    def _end(self, track: Track) -> None:
        track.is_dead = self._chance.random() < DEATH_SHARE
        if not track.is_dead:
            with closing(Spool(track.path, clock=self._clock)) as spool:
                spool.end(exit_code=0, run_status="finished", ended_at=NOW + self.now)
        track.job.trackers.clear()
        self._due(track, self.now)

    def _clock(self) -> float:
        return NOW + self.now

    # -- the engine

    def _start_engine(self) -> None:
        """A new process: it knows nothing of what the last one met. Those who gave it orders give them again."""
        self._address = Address(clock=lambda: self.now)
        for track in self._tracks.values():
            former, track.job = track.job, self._job(track.path)
            track.job.trackers = former.trackers
            self._due(track, self.now)

    def _job(self, path: Path) -> Job:
        delivery = RunDelivery(path, lambda _terms: cast(Reached, self), clock=lambda: self.now)
        return Job(delivery, TERMS, interval_s=INTERVAL_S, trackers={cast(Peer, self)})

    def _due(self, track: Track, at: float) -> None:
        track.job.due_at = at
        job = track.job
        self._at(at, lambda: self._turn(track, job, at))

    def _turn(self, track: Track, job: Job, due_at: float) -> None:
        if track.job is not job or job.due_at != due_at or track.path not in self._tracks:
            return  # of an engine that is dead, or due earlier meanwhile
        self.counts["turns"] += 1
        try:
            turn = job.delivery.turn(job.terms)
        except Crash:
            self.counts["engines that died"] += 1
            self._start_engine()
            return
        if turn.outcome is Outcome.DELIVERED:
            self._judge(track)
        elif turn.outcome in (Outcome.PARKED, Outcome.ERROR) or getattr(turn.problem, "cause", "") == "defect":
            raise Violation(f"day {self.now / DAY_S:.1f}: {turn.problem!r}", ())
        else:
            self._due(track, self.now + job.pause_s(turn, is_hurried=False))

    def _judge(self, track: Track) -> None:
        """All that was appended is stored, and named by the one finish; then the next run begins."""
        with closing(Spool(track.path)) as spool:
            registration = spool.run().registration
        assert registration is not None
        (run,) = [run for run in self._far_end.runs.values() if run.run_id == registration.run_id]
        mine = {
            uri: self._far_end.objects.pop(uri) for uri in [*self._far_end.objects] if uri.startswith(f"{run.prefix}/")
        }
        told = Told(
            plays.HEADERS[0], [(plays.header_of(number), plays.rows_of(number)) for number in range(track.appended)]
        )
        for question in (oracle.conserved, oracle.intact, oracle.ordered):
            question(Evidence(mine, run.finish, run.prefix, {}), told)
        assert run.finish is not None
        assert run.finish["run_status"] == ("failed" if track.is_dead else "finished")
        self.counts["runs"] += 1
        del self._tracks[track.path]
        directory.remove(track.path)
        if self._has_faults:
            self._start_run()

    def tracker_is_gone(self, spool: Spool, **_: Any) -> bool:
        return self._tracks[spool.path].is_dead

    def step(self, _name: str) -> None:
        if self._has_faults and self._chance.random() < CRASH_SHARE:
            raise Crash

    # -- the far end, as the engine's clients show it

    def _toggle(self) -> None:
        self._is_down = not self._is_down and self._has_faults
        if self._has_faults:
            self._at(self.now + self._chance.expovariate(1 / (DOWN_S if self._is_down else UP_S)), self._toggle)

    def _answer(self) -> Answer:
        if self._is_down and self._has_faults:
            return DOWN
        return REPLY_LOST if self._has_faults and self._chance.random() < LOST_SHARE else FINE

    def register(self, payload: dict[str, Any], *, idempotency_key: str) -> Any:
        return self._call("register", lambda: self._far_end.register(payload, idempotency_key=idempotency_key))

    def put(self, run_id: str, uri: str, body: bytes) -> Any:
        return self._call("put", lambda: self._far_end.put(run_id, uri, body))

    def finish(self, run_id: str, payload: dict[str, Any]) -> Any:
        return self._call("finish", lambda: self._far_end.finish(run_id, payload))

    def _call(self, kind: str, request: Callable[[], Any]) -> Any:
        def asked() -> Any:
            self._far_end.outcomes[kind] = type(self._far_end.outcomes[kind])([self._answer()])
            self.counts["requests"] += 1
            return request()

        return self._address.call(asked)

    def keep(self, run_id: str, credentials: Any) -> None: ...

    def forget(self, run_id: str) -> None: ...


@contextmanager
def year(*, runs: int, days: float, seed: int) -> Iterator[Year]:
    """Inside the block its spools die at failpoints, and its trackers are what it says."""
    with made() as place:
        passing = Year(place, runs=runs, days=days, seed=seed)

        def spool(path: Path) -> Spool:
            return Spool(path, step=passing.step, clock=passing._clock)

        with (
            mock.patch.object(recover, "Spool", spool),
            mock.patch.object(run_delivery, "tracker_is_gone", passing.tracker_is_gone),
        ):
            yield passing


def main() -> int:
    form = argparse.ArgumentParser(prog="python -m tests.model.year")
    form.add_argument("--days", type=float, default=365.0)
    form.add_argument("--runs", type=int, default=30)
    form.add_argument("--seed", type=int, default=1)
    given = form.parse_args()
    began_at = time.monotonic()
    with year(runs=given.runs, days=given.days, seed=given.seed) as passing:
        try:
            passing.pass_by()
        except (Violation, AssertionError) as wrong:
            print(f"VIOLATION with seed {given.seed}, day {passing.now / DAY_S:.2f}: {wrong}")
            return 1
    counts = ", ".join(f"{count:,} {what}" for what, count in passing.counts.items())
    print(f"{given.days:.0f} days, seed {given.seed}: {counts}; {time.monotonic() - began_at:.0f} s, no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
