"""A year of many runs in minutes: the real engine at a virtual clock, which hears of trackers as from their connections.

Trackers append, end and die; the far end goes down and loses replies; the engine dies at any failpoint, and those trackers
that live give their orders to another. Everything is drawn from a seed. Each run that is delivered is judged, and at the
end, without faults, all must be: an engine that looks after the whole directory (`drain --watch`) does the rest.

    python -m tests.model.year --days 365 --runs 30 --seed 1
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from spool import Spool, directory
from spool.recovery import recover
from streaming.record.plan import Delivery
from streaming.upload import engine, run_delivery
from streaming.upload.engine import Engine
from streaming.upload.job import Job
from streaming.upload.model import Outcome, Terms, Turn
from streaming.upload.reachability import Address, Reached
from streaming.upload.run_delivery import RunDelivery
from streaming.upload.threads import Threads
from tests.model.engines import Crash, made
from tests.model.positions import NOW
from tests.model.world import Violation
from tests.support import oracle, plays
from tests.support.memory_far_end import DOWN, FINE, REPLY_LOST, MemoryFarEnd
from tests.support.memory_far_end import Outcome as Answer
from tests.support.oracle import Evidence, Told

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
APPEND_S = 8 * HOUR_S  # between two batches of a run, on average
LIFE_S = 12 * DAY_S
UP_S, DOWN_S = 5 * DAY_S, 0.5 * HOUR_S  # the far end, on average
LOST_SHARE = 0.05  # of replies
CRASH_SHARE = 0.01  # of failpoints
DEATH_SHARE = 0.3  # of trackers that die rather than end their run
EXIT_WAIT_S = 10.0  # a tracker that has ended its run waits so long for its delivery
RECOVERY_S = 30 * DAY_S
TOKEN = "a token of a year"
DELIVERY = Delivery(TOKEN, "", None, upload_interval_s=DAY_S, linger_s=HOUR_S)
RARELY = {
    "SCAN_S": DAY_S,
    "WATCH_S": HOUR_S,
    "SUSPENDED_S": 10 * DAY_S,
}  # what happens each minute takes long in a year


@dataclass(eq=False)
class Track:
    """One run, and how far its tracker is, which has a connection to the engine while `is_connected`."""

    path: Path
    ends_at: float
    appended: int = 0
    is_dead: bool = False
    is_awaited: bool = False
    is_connected: bool = True


class TurnsAtOnce(Threads):
    """No threads: a turn is over when it has begun."""

    def start(self, job: Job, *, may_go_on: Callable[[], bool]) -> None:
        job.is_running = True
        self._running_count += 1
        self._take_turn(job, job.terms, job.wishes, job.is_adopted, may_go_on)


class Connections:
    """`Peers`, as the engine knows them: trackers connect, give orders, and are gone."""

    def __init__(self, year: Year, on_order: Callable[[Any, dict[str, Any]], None], on_gone: Callable[[Any], None]):
        self._tracks = year.tracks
        self.on_order, self.on_gone = on_order, on_gone

    def __len__(self) -> int:
        return sum(track.is_connected for track in self._tracks.values())

    def tell(self, peer: Track, event: str, **content: Any) -> None: ...

    def close(self) -> None: ...


class Year:
    """So many runs at once for so long; then the rest without faults."""

    def __init__(self, place: Path, *, runs: int, days: float, seed: int) -> None:
        self._place = place
        self._runs = runs
        self._until = days * DAY_S
        self._chance = random.Random(seed)
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.tracks: dict[Path, Track] = {}
        self._far_end = MemoryFarEnd()
        self._address = Address(clock=lambda: self.now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._is_down = False

    def pass_by(self) -> None:
        self._at(self._chance.expovariate(1 / UP_S), self._toggle)
        for _ in range(self._runs):
            self._start_run()
        while self.tracks:
            self._serving = self._engine()
            try:
                self._serving.serve()
            except Crash:
                self.counts["engines that died"] += 1
                self._serving._leave()
            finally:
                os.close(self._serving._wake_write)

    @property
    def _has_faults(self) -> bool:
        return self.now < self._until

    def _at(self, at: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), event))

    def sleep(self, seconds: float) -> list[Any]:
        """As a selector waits: until then, or until something happens."""
        until = self.now + (seconds or 0.0)
        if self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        else:
            self.now = until
        if self.now > self._until + RECOVERY_S:
            raise Violation(f"{len(self.tracks)} runs are not delivered after {self.now / DAY_S:.0f} days")
        return []

    def clock(self) -> float:
        return NOW + self.now

    # -- trackers

    def _start_run(self) -> None:
        new = replace(plays.new_run(token=TOKEN), started_at=self.clock())
        with closing(Spool.create(self._place, new, clock=self.clock)) as spool:
            track = Track(spool.path, self.now + self._chance.expovariate(1 / LIFE_S))
        self.tracks[track.path] = track
        self._at(self.now, lambda: self._append(track))
        self._at(self.now, lambda: self._order(track))

    def _order(self, track: Track) -> None:
        self._connections.on_order(track, DELIVERY.order(track.path, is_awaited=track.is_awaited))

    def _append(self, track: Track) -> None:
        if self.now >= min(track.ends_at, self._until):
            self._end(track)
            return
        with closing(Spool(track.path, clock=self.clock)) as spool:
            spool.append([plays.batch_of(track.appended)])
        track.appended += 1
        self.counts["batches"] += 1
        self._at(self.now + self._chance.expovariate(1 / APPEND_S), lambda: self._append(track))

    def _end(self, track: Track) -> None:
        track.is_dead = self._chance.random() < DEATH_SHARE
        if track.is_dead:
            self._leave(track)
            return
        with closing(Spool(track.path, clock=self.clock)) as spool:
            spool.end(exit_code=0, run_status="finished", ended_at=self.clock())
        track.is_awaited = True
        self._order(track)
        self._at(self.now + EXIT_WAIT_S, lambda: self._leave(track))

    def _leave(self, track: Track) -> None:
        track.is_connected = False
        self._connections.on_gone(track)

    def tracker_is_gone(self, spool: Spool, **_: Any) -> bool:
        return self.tracks[spool.path].is_dead

    # -- the engine

    def _engine(self) -> Engine:
        """A new process: it knows nothing of what the last one met. Those who gave that one orders give them again."""
        self._address = Address(clock=lambda: self.now)
        serving = Engine(self._place, on_turn=self._on_turn)
        for track in self.tracks.values():
            if track.is_connected:
                self._order(track)
        if not self._connections:
            serving.watch(Terms(TOKEN, "", None))
        return serving

    def connections(self, _selector: object, **heard: Any) -> Connections:
        self._connections = Connections(self, **heard)
        return self._connections

    def _on_turn(self, path: Path, turn: Turn) -> None:
        self.counts["turns"] += 1
        if turn.outcome in (Outcome.PARKED, Outcome.ERROR) or getattr(turn.problem, "cause", "") == "defect":
            raise Violation(f"day {self.now / DAY_S:.1f}: {turn.problem!r}")
        if turn.outcome is Outcome.DELIVERED and path in self.tracks:
            self._judge(self.tracks.pop(path))

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
        directory.remove(track.path)
        if self._has_faults:
            self._start_run()
        elif not self.tracks:
            self._serving.hurry(0.0)

    def step(self, _name: str) -> None:
        if self._has_faults and self._chance.random() < CRASH_SHARE:
            raise Crash

    # -- the far end, as the engine's clients show it (`AllReached`, `Reached`)

    def by(self, _terms: Terms) -> Reached:
        return cast(Reached, self)

    def unanswered(self, _terms: Terms) -> str:
        return ""

    def answers_since(self, _terms: Terms, _at: float) -> bool:
        return False

    def ask_now(self) -> None:
        self._address.ask_now()

    def drop_stale(self, _terms: Terms) -> None: ...

    def forget_all_but(self, _in_use: object) -> None: ...

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
            self._far_end.outcomes[kind] = deque([self._answer()])
            self.counts["requests"] += 1
            return request()

        return self._address.call(asked)

    def keep(self, run_id: str, credentials: Any) -> None: ...

    def forget(self, run_id: str) -> None: ...


@contextmanager
def year(*, runs: int, days: float, seed: int) -> Iterator[Year]:
    """Inside the block spools that are delivered die at failpoints, trackers and time are the year's."""
    with made() as place:
        passing = Year(place, runs=runs, days=days, seed=seed)

        def nothing(*_: object) -> None: ...

        def spool(path: Path) -> Spool:
            return Spool(path, step=passing.step, clock=passing.clock)

        selector = SimpleNamespace(register=nothing, close=nothing, select=passing.sleep)
        stand_ins: dict[str, Any] = {
            "time": SimpleNamespace(monotonic=lambda: passing.now, time=passing.clock),
            "seconds_since_boot": lambda: passing.now,
            "selectors": SimpleNamespace(DefaultSelector=lambda: selector, EVENT_READ=0),
            "open_pid": nothing,  # none: a tracker is gone when its connection is
            "Peers": passing.connections,
            "AllReached": lambda: passing,
            "RunDelivery": partial(RunDelivery, clock=lambda: passing.now),
            "Threads": TurnsAtOnce,
        }
        with (
            mock.patch.multiple(engine, **stand_ins, **RARELY),
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
    with year(runs=given.runs, days=given.days, seed=given.seed) as passing:
        try:
            passing.pass_by()
        except AssertionError as wrong:
            print(f"VIOLATION with seed {given.seed}, day {passing.now / DAY_S:.2f}: {wrong}")
            return 1
    counts = ", ".join(f"{count:,} {what}" for what, count in passing.counts.items())
    print(f"{given.days:.0f} days, seed {given.seed}: {counts}; {time.process_time():.0f} s of CPU, no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
