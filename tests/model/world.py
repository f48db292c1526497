"""A small world: one run, its tracker, engines that take turns at it, a far end in memory; no threads, no clock.

The tracker appends batches, ends the run, or dies. Engines take real turns (`RunDelivery.turn`), as many at once as there
are, as under a lock that lies. Each is a coroutine (greenlet) that pauses at every named failpoint outside a transaction;
what is inside one is not seen by others, and to crash there is to crash before it. At each pause whoever asks chooses who
goes on, what becomes of a call, who crashes, whether the service forgets the run, and whether the spool is copied to another
host, where one more engine works on the copy.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from unittest import mock

import greenlet

from spool import RunState, Spool, ownership
from spool.database import connection
from spool.recovery import recover
from streaming.upload import run_delivery
from streaming.upload.model import NO_WISHES, Outcome, Terms, Wishes
from streaming.upload.reachability import Reached
from streaming.upload.run_delivery import RunDelivery
from tests.model.positions import NOW, Eyes, SeenSpool, frames
from tests.support import memory_far_end, oracle, plays
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Line, Told

MEMORY = Path("/dev/shm")
CALLS = {"register:sending": "register", "upload:sending": "put", "finish:sending": "finish"}
OUTCOMES = {
    "": memory_far_end.FINE,
    "lost": memory_far_end.REPLY_LOST,
    "down": memory_far_end.DOWN,
    "unauthorized": memory_far_end.UNAUTHORIZED,
    "refused": memory_far_end.REFUSED,
}
FAULTS = ("lost", "down", "unauthorized", "refused")
TERMS = Terms("", "", None)
ANEW = Wishes(anew=True)
MOVES_MAX = 400  # nobody needs so many to deliver so little
TURNS_MAX = 50  # what no fault hinders is delivered within so many
WITHOUT_WAL = {"journal_mode": "memory", "synchronous": "off"}  # nobody dies within a transaction here


@dataclass(frozen=True)
class Bounds:
    """How large the world is: what may happen, and how often."""

    engines: int = 2
    batches: int = 3
    crashes: int = 2
    lost: int = 2  # replies
    down: int = 1  # calls that do not arrive
    unauthorized: int = 0  # calls
    refused: int = 0  # objects
    forgets: int = 0  # the service the run
    copies: int = 0  # of the spool, on another host with an engine of its own
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

    def __init__(self, world: World, path: Path) -> None:
        self._world = world
        self.path = path
        self._running: greenlet.greenlet | None = None
        self.paused_at = ""
        self.wishes = NO_WISHES
        self._delivery: RunDelivery | None = None

    def go_on(self) -> None:
        """Begin a turn, or go on with the one under way, up to the next failpoint or its end."""
        if self._running is None:
            self._running = greenlet.greenlet(self._turn)
            self._running.world = self._world
        at = self._running.switch()
        self.paused_at = at if isinstance(at, str) else ""
        if self._running.dead:
            self._running = None

    def crash(self) -> None:
        if self._running is not None:
            with suppress(Crash):
                self._running.throw(Crash())
        self._running, self.paused_at, self._delivery = None, "", None

    def _turn(self) -> None:
        far_end = cast(Reached, self._world.service)
        delivery = RunDelivery(self.path, lambda _terms: far_end, clock=lambda: 0.0)
        turn = delivery.turn(TERMS, self.wishes)
        if turn.outcome is Outcome.ERROR or getattr(turn.problem, "cause", "") == "defect":
            raise AssertionError(f"a turn ends with {turn.problem!r}")

    def position(self) -> tuple[Any, ...]:
        """Where it is and what its variables hold: two engines with the same position go on in the same way."""
        if self._running is None:
            return ()
        return (self.paused_at, *frames(self._running.gr_frame, self._world.bounds.refused > 0))


@dataclass(frozen=True)
class Snapshot:
    """A world in which no engine is amid a turn, to be gone on from."""

    files: dict[Path, bytes]
    service: MemoryFarEnd
    facts: dict[str, Any]
    left: dict[str, int]
    moves: tuple[str, ...]


@dataclass
class World:
    """One run, those who work on it, and what they have been told. Deterministic: the same moves lead to the same state."""

    place: Path
    bounds: Bounds
    moves: tuple[str, ...] = ()
    service: MemoryFarEnd = field(default_factory=MemoryFarEnd)
    appended: int = 0
    copied: int = -1  # how many batches the copy holds; -1: there is none
    tracker_is_dead: bool = False
    has_ended: bool = False
    is_forgotten: bool = False
    left: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.eyes = Eyes()
        (template,) = self.place.glob("*.template")
        self.path = template.with_suffix(".spool")
        self.copy_path = self.place / "elsewhere" / self.path.name
        self.left = {name: getattr(self.bounds, name) for name in ("crashes", *FAULTS, "forgets", "copies")}
        self.engines = {name: Engine(self, self.path) for name in "AB"[: self.bounds.engines]}
        self._lay({self.path: template.read_bytes()})
        self.origin = self.snapshot()

    # -- from where it can be gone on

    @property
    def is_quiet(self) -> bool:
        return not any(engine.paused_at for engine in self.engines.values())

    @property
    def is_over(self) -> bool:
        """Whether the run was finished, or parked, and nobody is amid a turn."""
        return self.is_quiet and self.eyes.is_over(self.path)

    def snapshot(self) -> Snapshot:
        files = {path: path.read_bytes() for path in (self.path, self.copy_path) if path.exists()}
        return Snapshot(files, self.service.copy(), self._facts(), dict(self.left), self.moves)

    def restore(self, snapshot: Snapshot) -> None:
        self.abandon()
        self._lay(snapshot.files)
        self.service, self.left, self.moves = snapshot.service.copy(), dict(snapshot.left), snapshot.moves
        for name, value in snapshot.facts.items():
            setattr(self, name, value)
        self._open_copy()

    def _facts(self) -> dict[str, Any]:
        names = ("appended", "copied", "tracker_is_dead", "has_ended", "is_forgotten")
        return {name: getattr(self, name) for name in names}

    def _lay(self, files: dict[Path, bytes]) -> None:
        for folder in (self.path.parent, self.copy_path.parent):
            for leftover in folder.glob("*.spool*"):
                self.eyes.close(leftover)
                leftover.unlink()
        for path, content in files.items():
            path.write_bytes(content)
            path.chmod(0o600)

    def _open_copy(self) -> None:
        self.engines.pop("C", None)
        if self.copied >= 0:
            self.engines["C"] = Engine(self, self.copy_path)

    def abandon(self) -> None:
        for path in (self.path, self.copy_path):
            self.eyes.close(path)
        for engine in self.engines.values():
            engine.crash()

    # -- moves

    def possible(self) -> list[str]:
        """Every move from here; those without a fault first, the engine that is amid a turn before all others."""
        amid = [name for name, engine in self.engines.items() if engine.paused_at]
        idle = [
            name for name, engine in self.engines.items() if not engine.paused_at and not self.eyes.is_over(engine.path)
        ]
        tracker = [] if self.tracker_is_dead or self.has_ended else self._tracker_moves()
        faults = [f"{name}:{fault}" for name in amid for fault in self._faults(self.engines[name].paused_at)]
        crashes = [f"crash {name}" for name in amid if self.left["crashes"]]
        return [*amid, *tracker, *idle, *faults, *crashes, *self._odd_moves()]

    def _tracker_moves(self) -> list[str]:
        append = ["append"] if self.appended < self.bounds.batches else []
        return [*append, "end", *(["die"] if self.bounds.tracker_may_die else [])]

    def _faults(self, at: str) -> list[str]:
        call = CALLS.get(at)
        return [fault for fault in FAULTS if call and self.left[fault] and (fault != "refused" or call == "put")]

    def _odd_moves(self) -> list[str]:
        can_forget = self.left["forgets"] and any(run.finish is None for run in self.service.runs.values())
        can_copy = self.left["copies"] and self.eyes.state(self.path) is not RunState.FINISHED
        return ["forget"] * bool(can_forget) + ["copy"] * bool(can_copy)

    def make(self, move: str, *, is_checked: bool = True) -> None:
        """Make one move. Raises Violation if a promise does not hold after it."""
        self.moves += (move,)
        if len(self.moves) > MOVES_MAX:
            raise Violation("it goes on and on", self.moves[:20])
        if move in ("append", "end", "die", "copy", "forget"):
            getattr(self, f"_{move}")()
        elif move.startswith("crash "):
            self.left["crashes"] -= 1
            self.engines[move[-1]].crash()
        else:
            self._engine(*move.partition(":")[::2])
        if is_checked:
            self.require_promises()

    def _die(self) -> None:
        self.tracker_is_dead = True

    def _end(self) -> None:
        with closing(Spool(self.path, clock=lambda: NOW)) as spool:
            spool.end(exit_code=0, run_status="finished", ended_at=NOW)
        self.has_ended = True

    def _append(self) -> None:
        with closing(Spool(self.path, clock=lambda: NOW)) as spool:
            spool.append([plays.batch_of(self.appended)])
        self.appended += 1

    def _copy(self) -> None:
        """To another host. What lies there is no copy in the middle of a transaction: those are not seen here."""
        self.left["copies"] -= 1
        shutil.copyfile(self.path, self.copy_path)
        self.copy_path.chmod(0o600)
        self.copied = self.appended
        self._open_copy()

    def _forget(self) -> None:
        self.left["forgets"] -= 1
        self.is_forgotten = True
        self.service.forget_runs()

    def _engine(self, name: str, fault: str) -> None:
        engine = self.engines[name]
        if fault:
            self.left[fault] -= 1
        call = CALLS.get(engine.paused_at)
        if call:
            self.service.outcomes[call].append(OUTCOMES[fault])
        try:
            engine.go_on()
        except (AssertionError, sqlite3.Error) as error:
            raise Violation(f"engine {name}: {error!r}", self.moves) from error
        finally:
            self.service.outcomes.clear()

    # -- what must hold

    def require_promises(self) -> None:
        """What holds in every state: keys never change their content, one registration, and a finish names it all."""
        for uri, digests in self.service.history.items():
            if len(set(digests)) > 1:
                raise Violation(f"{uri} held different bodies", self.moves)
        if len(self.service.runs) > 1 and not self.is_forgotten:
            raise Violation("registered as two runs", self.moves)
        for run in self.service.runs.values():
            if run.finish is not None:
                self._require_delivered(run)

    def _require_delivered(self, run: memory_far_end.Run) -> None:
        told = Told(plays.HEADERS[0], self._told())
        evidence = oracle.Evidence(dict(self.service.objects), run.finish, run.prefix, dict(self.service.history))
        if len(self.engines) > 1 or self.is_forgotten:  # the slower one may leave an object that nobody names
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
                self._engine(name, "")
        if not self.has_ended:
            self.tracker_is_dead = True
        survivor = self.engines["A"]
        for _ in range(TURNS_MAX):
            if self.eyes.state(self.path) is RunState.FINISHED:
                break
            survivor.wishes = ANEW if self.is_forgotten and self.eyes.is_over(self.path) else NO_WISHES
            survivor.go_on()
            while survivor.paused_at:
                survivor.go_on()
        else:
            raise Violation("without any further fault the run is never finished", self.moves)
        survivor.wishes = NO_WISHES
        self.require_promises()
        if not any(run.finish for run in self.service.runs.values()):
            raise Violation("the spool says finished, the service does not", self.moves)

    def state(self) -> bytes:
        """The digest of everything that decides how this world can go on, but for how many faults are left.

        Engines on the same file are interchangeable.
        """
        files = [self.eyes.content(path) for path in (self.path, self.copy_path) if path.exists()]
        runs = [(run.run_id, repr(run.finish)) for run in self.service.runs.values()]
        stored = sorted((uri, blake2b(body).digest()) for uri, body in self.service.objects.items())
        engines = sorted(repr((str(engine.path), engine.position())) for engine in self.engines.values())
        everything = (files, runs, stored, engines, self._facts())
        return blake2b(repr(everything).encode(), digest_size=16).digest()

    def budget(self) -> tuple[int, ...]:
        """How many faults of each kind are left."""
        return tuple(self.left.values())


@contextmanager
def made() -> Iterator[Path]:
    """A private folder in memory with the spool that every world begins with.

    Inside the block locks lie, spools pause at failpoints, and the tracker is what the world says.
    """
    place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        stack.enter_context(mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(place / "state")}))
        stack.enter_context(mock.patch.dict(connection.PRAGMAS, WITHOUT_WAL))
        for target, name, stand_in in _stand_ins(place):
            stack.enter_context(mock.patch.object(target, name, stand_in))
        logger = logging.getLogger("streaming")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        new = replace(plays.new_run(token=""), started_at=NOW)
        with closing(Spool.create(place, new, clock=lambda: NOW)) as spool:
            path = spool.path
        path.rename(path.with_suffix(".template"))
        (place / "elsewhere").mkdir(mode=0o700)
        yield place


def _stand_ins(place: Path) -> list[tuple[Any, str, Callable[..., Any]]]:
    def own(_path: Path) -> AbstractContextManager[None]:
        return nullcontext()

    def tracker_is_gone(spool: Spool, **_: Any) -> bool:
        world = cast(World, greenlet.getcurrent().world)
        return world.tracker_is_dead and spool.path == world.path  # nobody takes a copy's tracker for dead

    return [(ownership, "own", own), (recover, "Spool", SeenSpool), (run_delivery, "tracker_is_gone", tracker_is_gone)]
