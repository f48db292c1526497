"""Every interleaving of a small world: real `delivery.deliver`, real spool, a fake service in memory, no threads, no clock.

The world is one run. Its tracker appends batches, ends the run, or dies; one or two engines deliver it, both at once, as
under a lock that lies. Each engine is a coroutine (greenlet) that pauses at every named failpoint outside a transaction;
what is inside one is not seen by others, and to crash there is to crash before it. At each pause the explorer chooses who
goes on, which call fails or loses its reply, and who crashes. A state that was seen before is recognised by its content
(file, service, position and variables of each engine), so the search ends.

    python -m tests.model.explore --engines 2 --batches 3 --crashes 2 --lost 2      # all of it
    python -m tests.model.explore --seed 7 --minutes 10                             # long random ones
    python -m tests.model.explore --replay 'append,A,A,crash A,B:lost'              # one sequence again
"""

from __future__ import annotations

import argparse
import gc
import operator
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import FrameType, GeneratorType
from typing import Any

import greenlet

from spool import RunState, Spool, system
from spool.model import NewRun
from streaming.errors import StreamError
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from tests.support import oracle, plays
from tests.support.memory_far_end import DOWN, FINE, REFUSED, REPLY_LOST, MemoryFarEnd, Outcome
from tests.support.oracle import Line, Told

MEMORY = Path("/dev/shm")
NOW = 1e9
CALLS = {"register:sending": "register", "upload:sending": "put", "finish:sending": "finish"}
OUTCOMES = {"": FINE, "lost": REPLY_LOST, "down": DOWN, "refused": REFUSED}
OURS = (str(Path(delivery.__file__).parent), str(Path(system.__file__).parent))
MOVES_MAX = 400  # nobody needs so many to deliver so little
CYCLES_MAX = 50  # what no fault hinders is delivered within so many


@dataclass(frozen=True)
class Bounds:
    """How large the world is: what may happen, and how often."""

    engines: int = 2
    batches: int = 3
    crashes: int = 2
    lost: int = 2  # replies
    down: int = 1  # calls that do not arrive
    refused: int = 0  # objects
    tracker_may_die: bool = True


class Violation(AssertionError):
    """A promise does not hold; `moves` is how to get there."""

    def __init__(self, why: str, moves: tuple[str, ...]) -> None:
        super().__init__(f"{why}\n  after: {','.join(moves)}")
        self.moves = moves


class Crash(BaseException):
    """The process is gone."""


class Engine:
    """One process that delivers: it runs until the next failpoint each time it is resumed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: greenlet.greenlet | None = None
        self._spool: Spool | None = None
        self.paused_at = ""

    def go_on(self) -> None:
        """Begin a cycle, or go on with the one under way, up to the next failpoint or its end."""
        if self._running is None:
            self._running = greenlet.greenlet(self._cycle)
        at = self._running.switch()
        self.paused_at = at if isinstance(at, str) else ""
        if self._running.dead:
            self._running = None

    def crash(self) -> None:
        assert self._running is not None
        with suppress(Crash):
            self._running.throw(Crash())
        self._running, self.paused_at = None, ""

    def _cycle(self) -> None:
        with closing(Spool(self._world.path, step=self._pause, clock=lambda: NOW)) as spool:
            self._spool = spool
            with suppress(StreamError):
                if self._world.tracker_is_dead:
                    end_dead_run(spool)
                delivery.deliver(spool, self._world.service, self._world.service)

    def _pause(self, name: str) -> None:
        """Let others go on. Within a transaction nobody could: SQLite makes them wait."""
        if name.partition(":")[2] in ("", "sending", "replied"):
            greenlet.getcurrent().parent.switch(name)

    def position(self) -> tuple[Any, ...]:
        """Where it is and what its variables hold: two engines with the same position go on in the same way."""
        if self._running is None:
            return ()
        return (self.paused_at, *_frames(self._running.gr_frame))


def _frames(frame: FrameType | None) -> Iterator[tuple[Any, ...]]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            yield _frame(frame)
        frame = frame.f_back


def _frame(frame: FrameType) -> tuple[Any, ...]:
    """A frame's place and variables, and what its loops still hold."""
    values = tuple((name, _value(value)) for name, value in sorted(frame.f_locals.items()))
    inner = [_value(each) for each in gc.get_referents(frame) if isinstance(each, (GeneratorType, type(iter([]))))]
    return frame.f_code.co_name, frame.f_lasti, values, tuple(inner)


def _value(value: object) -> object:
    if isinstance(value, GeneratorType):
        return _frame(value.gi_frame) if value.gi_frame is not None else ()
    if isinstance(value, type(iter([]))):
        return operator.length_hint(value)
    if isinstance(value, (Spool, MemoryFarEnd, sqlite3.Connection)) or callable(value) or hasattr(value, "query"):
        return ""
    return repr(value)


@dataclass
class World:
    """One run, those who work on it, and what they have been told. Deterministic: the same moves lead to the same state."""

    place: Path
    bounds: Bounds
    moves: tuple[str, ...] = ()
    service: MemoryFarEnd = field(default_factory=MemoryFarEnd)
    appended: int = 0
    tracker_is_dead: bool = False
    has_ended: bool = False
    left: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.place / "run.spool"
        for leftover in self.place.glob("run*"):
            leftover.unlink()
        shutil.copyfile(self.place / "template.spool", self.path)
        self.path.chmod(0o600)
        self.engines = {name: Engine(self) for name in "AB"[: self.bounds.engines]}
        self.left = {name: getattr(self.bounds, name) for name in ("crashes", "lost", "down", "refused")}

    # -- moves

    def possible(self) -> list[str]:
        """Every move from here; those without a fault first, the engine that is amid a cycle before all others."""
        amid = [name for name, engine in self.engines.items() if engine.paused_at]
        idle = [] if self._is_finished() else [name for name, engine in self.engines.items() if not engine.paused_at]
        tracker = [] if self.tracker_is_dead or self.has_ended else self._tracker_moves()
        faults = [f"{name}:{fault}" for name in amid for fault in self._faults(self.engines[name].paused_at)]
        crashes = [f"crash {name}" for name in amid if self.left["crashes"]]
        return [*amid, *tracker, *idle, *faults, *crashes]

    def _tracker_moves(self) -> list[str]:
        append = ["append"] if self.appended < self.bounds.batches else []
        return [*append, "end", *(["die"] if self.bounds.tracker_may_die else [])]

    def _faults(self, at: str) -> list[str]:
        call = CALLS.get(at)
        return [
            fault
            for fault in ("lost", "down", "refused")
            if call and self.left[fault] and (fault != "refused" or call == "put")
        ]

    def make(self, move: str) -> None:
        """Make one move. Raises Violation if a promise does not hold after it."""
        self.moves += (move,)
        if len(self.moves) > MOVES_MAX:
            raise Violation("it goes on and on", self.moves[:20])
        if move == "die":
            self.tracker_is_dead = True
        elif move in ("append", "end"):
            self._as_tracker(move)
        elif move.startswith("crash "):
            self.left["crashes"] -= 1
            self.engines[move[-1]].crash()
        else:
            self._as_engine(*move.partition(":")[::2])
        self.require_promises()

    def _as_tracker(self, move: str) -> None:
        with closing(Spool(self.path, clock=lambda: NOW)) as spool:
            if move == "end":
                spool.end(exit_code=0, run_status="finished", ended_at=NOW)
                self.has_ended = True
            else:
                spool.append([plays.batch_of(self.appended)])
                self.appended += 1

    def _as_engine(self, name: str, fault: str) -> None:
        engine = self.engines[name]
        if fault:
            self.left[fault] -= 1
        call = CALLS.get(engine.paused_at)
        if call:
            self.service.outcomes[call].append(_outcome(fault))
        try:
            engine.go_on()
        except (AssertionError, sqlite3.Error) as error:
            raise Violation(f"engine {name}: {error!r}", self.moves) from error

    def _is_finished(self) -> bool:
        with closing(Spool(self.path)) as spool:
            return spool.run().state is RunState.FINISHED

    # -- what must hold

    def require_promises(self) -> None:
        """What holds in every state: keys never change their content, one registration, and a finish names it all."""
        for uri, digests in self.service.history.items():
            if len(set(digests)) > 1:
                raise Violation(f"{uri} held different bodies", self.moves)
        if len(self.service.runs) > 1:
            raise Violation("registered as two runs", self.moves)
        for run in self.service.runs.values():
            if run.finish is not None:
                self._require_delivered()

    def _require_delivered(self) -> None:
        told = Told(plays.HEADERS[0], self._told())
        evidence = self.service.evidence()
        if (
            len(self.engines) > 1 and evidence.finish is not None
        ):  # the slower one may leave an object that nobody names
            named = {uri: body for uri, body in evidence.objects.items() if evidence.names(uri)}
            evidence = replace(evidence, objects=named)
        try:
            oracle.conserved(evidence, told)
            oracle.intact(evidence, told)
            oracle.ordered(evidence, told)
        except oracle.Verdict as verdict:
            raise Violation(str(verdict), self.moves) from verdict

    def _told(self) -> list[Line]:
        return [(plays.header_of(number), plays.rows_of(number)) for number in range(self.appended)]

    def require_progress(self) -> None:
        """From here, when all faults end, everything is delivered. Leaves the world behind, used up."""
        for name, engine in self.engines.items():
            while engine.paused_at:
                self._as_engine(name, "")
        if not self.has_ended:
            self.tracker_is_dead = True
        survivor = self.engines["A"]
        for _ in range(CYCLES_MAX):
            if self._is_finished():
                break
            survivor.go_on()
            while survivor.paused_at:
                survivor.go_on()
        else:
            raise Violation("without any further fault the run is never finished", self.moves)
        self.require_promises()
        if not any(run.finish for run in self.service.runs.values()):
            raise Violation("the spool says finished, the service does not", self.moves)

    def abandon(self) -> None:
        for engine in self.engines.values():
            if engine.paused_at:
                engine.crash()

    def state(self) -> bytes:
        """The digest of everything that decides how this world can go on."""
        with closing(sqlite3.connect(self.path)) as db:
            tables = [db.execute(f"SELECT * FROM {table}").fetchall() for table in ("run", "segment", "batch")]
        runs = [(run.run_id, repr(run.finish)) for run in self.service.runs.values()]
        stored = sorted((uri, blake2b(body).digest()) for uri, body in self.service.objects.items())
        engines = [engine.position() for engine in self.engines.values()]
        everything = (tables, runs, stored, engines, self.tracker_is_dead, sorted(self.left.items()))
        return blake2b(repr(everything).encode(), digest_size=16).digest()


def _outcome(fault: str) -> Outcome:
    return OUTCOMES[fault]


@dataclass
class Explored:
    """What an exploration has seen."""

    states: set[bytes] = field(default_factory=set)
    transitions: int = 0
    runs: int = 0  # executions from the beginning
    deepest: int = 0


def explore(place: Path, bounds: Bounds, *, until: float = float("inf")) -> Explored:
    """Every reachable state, depth first. Raises Violation with the moves that lead there."""
    seen = Explored()
    waiting: list[tuple[str, ...]] = [()]
    while waiting and time.monotonic() < until:
        world = World(place, bounds)
        for move in waiting.pop():
            world.make(move)
            seen.transitions += 1
        seen.runs += 1
        while True:
            state = world.state()
            if state in seen.states:
                world.abandon()
                break
            seen.states.add(state)
            moves = world.possible()
            if not moves:
                world.require_progress()
                break
            waiting += [(*world.moves, move) for move in moves[1:]]
            world.make(moves[0])
            seen.transitions += 1
            seen.deepest = max(seen.deepest, len(world.moves))
    return seen


def wander(place: Path, bounds: Bounds, seed: int) -> World:
    """One long random sequence, with a probe for progress at its end. Raises Violation."""
    chance = random.Random(seed)
    world = World(place, bounds)
    while moves := world.possible():
        world.make(chance.choice(moves))
    world.require_progress()
    return world


def replay(place: Path, bounds: Bounds, moves: tuple[str, ...]) -> World:
    """One sequence of moves again."""
    world = World(place, bounds)
    for move in moves:
        world.make(move)
    return world


def shortest(place: Path, bounds: Bounds, violation: Violation) -> Violation:
    """The same kind of violation with as few moves as leaving out single ones can reach."""
    found = violation
    shrinks = True
    while shrinks:
        shrinks = False
        for at in range(len(found.moves)):
            try:
                world = World(place, bounds)
                for move in (*found.moves[:at], *found.moves[at + 1 :]):
                    if move not in world.possible():
                        break
                    world.make(move)
                else:
                    world.require_progress()
                world.abandon()
            except Violation as shorter:
                if len(shorter.moves) < len(found.moves):
                    found, shrinks = shorter, True
                    break
    return found


def prepare() -> Path:
    """A private folder in memory with the spool that every world begins with. The caller removes it."""
    place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    new: NewRun = replace(plays.new_run(), started_at=NOW)
    with closing(Spool.create(place / "made", new, clock=lambda: NOW)) as spool:
        made = spool.path
    made.rename(place / "template.spool")
    return place


def main() -> int:
    form = argparse.ArgumentParser(prog="python -m tests.model.explore", description=__doc__)
    for name, default in vars(Bounds()).items():
        form.add_argument(f"--{name.replace('_', '-')}", type=int, default=int(default))
    form.add_argument("--seed", type=int, help="random sequences, beginning with this seed, instead of all")
    form.add_argument("--minutes", type=float, default=float("inf"))
    form.add_argument("--replay", help="one sequence of moves, as a violation prints it")
    given = vars(form.parse_args())
    seed, minutes, again = given.pop("seed"), given.pop("minutes"), given.pop("replay")
    bounds, place, until = Bounds(**given), prepare(), time.monotonic() + 60 * minutes
    try:
        if again is not None:
            replay(place, bounds, tuple(again.split(","))).require_progress()
        elif seed is not None:
            count = 0
            while time.monotonic() < until:
                wander(place, bounds, seed + count)
                count += 1
            print(f"{count} random sequences from seed {seed}, no violation")
        else:
            seen = explore(place, bounds, until=until)
            print(
                f"{len(seen.states)} states, {seen.transitions} transitions, {seen.runs} executions, "
                f"at most {seen.deepest} moves: no violation"
            )
    except Violation as violation:
        print(f"VIOLATION: {shortest(place, bounds, violation)}")
        return 1
    finally:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
