"""A small world: one run, its tracker, engines that take turns at it, a far end in memory; no threads, no clock.

The tracker appends batches, ends the run, or dies. Engines take real turns, as many at once as there are, as under a lock
that lies. At each failpoint whoever asks chooses who goes on, what becomes of a call, who crashes, whether the service
forgets the run, and whether the spool is copied to another host, where one more engine works on the copy.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tests.model.engines import CALLS
from tests.model.steps import IDLE, NOBODY, Steps, View
from tests.support import memory_far_end, oracle, plays
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told

FAULTS = ("lost", "down", "unauthorized", "refused")
KINDS = ("crashes", *FAULTS, "forgets", "copies")  # of faults, as they are counted
TURNS_MAX = 50  # what no fault hinders is delivered within so many
STEPS_MAX = 60  # and no turn has so many
COPIER = "C"
LIVES, ENDED, DEAD = "lives", "has ended the run", "is dead"


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

    def __init__(self, why: str, moves: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.moves = moves

    def __str__(self) -> str:
        return f"{self.args[0]}\n  after: {','.join(self.moves)}"


class State(NamedTuple):
    """One moment of the world; files, far ends and positions of engines are numbers of `Steps`."""

    file: int
    far_end: int
    engines: tuple[int, ...]
    left: tuple[int, ...]  # faults of each of KINDS
    appended: int = 0
    tracker: str = LIVES
    is_forgotten: bool = False
    copy: int = NOBODY  # the file on the other host
    copier: int = IDLE

    @property
    def is_quiet(self) -> bool:
        return not any(self.engines) and self.copier == IDLE

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that decides how it can go on, but for how many faults are left. Engines are interchangeable."""
        return (self.file, self.far_end, tuple(sorted(self.engines)), *self[4:])


class World:
    """What can happen at each moment, and where that leads."""

    def __init__(self, place: Path, bounds: Bounds) -> None:
        self.bounds = bounds
        self.steps = Steps(place, may_refuse=bounds.refused > 0)
        self.names = "AB"[: bounds.engines]
        self._promised: set[tuple[object, ...]] = set()
        self._delivered: set[tuple[object, ...]] = set()

    @cached_property
    def origin(self) -> State:
        left = tuple(getattr(self.bounds, name) for name in KINDS)
        first = self.steps.origin
        return State(first.file, first.far_end, (IDLE,) * self.bounds.engines, left)

    def is_over(self, state: State) -> bool:
        """Whether the run was finished, or parked, and nobody is amid a turn."""
        return state.is_quiet and self.steps.file(state.file).is_over

    # -- moves

    def possible(self, state: State) -> list[str]:
        """Every move from here; those without a fault first, the engine that is amid a turn before all others."""
        everybody = dict(zip(reversed(state.engines), reversed(self.names), strict=True))  # one of those that are alike
        amid = {name: position for position, name in everybody.items() if position != IDLE}
        idle = [everybody[IDLE]] if IDLE in everybody and not self.steps.file(state.file).is_over else []
        if state.copier != IDLE:
            amid[COPIER] = state.copier
        elif state.copy != NOBODY and not self.steps.file(state.copy).is_over:
            idle.append(COPIER)
        tracker = self._tracker_moves(state) if state.tracker == LIVES else []
        faults = [f"{name}:{fault}" for name, at in amid.items() for fault in self._faults(state, at)]
        crashes = [f"crash {name}" for name in amid if _left(state, "crashes")]
        return [*amid, *tracker, *idle, *faults, *crashes, *self._odd_moves(state)]

    def _tracker_moves(self, state: State) -> list[str]:
        append = ["append"] if state.appended < self.bounds.batches else []
        return [*append, "end", *(["die"] if self.bounds.tracker_may_die else [])]

    def _faults(self, state: State, position: int) -> list[str]:
        call = CALLS.get(self.steps.paused_at(position))
        return [fault for fault in FAULTS if call and _left(state, fault) and (fault != "refused" or call == "put")]

    def _odd_moves(self, state: State) -> list[str]:
        runs = self.steps.far_end(state.far_end).runs.values()
        can_forget = _left(state, "forgets") and any(run.finish is None for run in runs)
        can_copy = _left(state, "copies") and not self.steps.file(state.file).is_finished
        return ["forget"] * bool(can_forget) + ["copy"] * bool(can_copy)

    def make(self, state: State, move: str) -> State:
        """Where a move leads. Raises Violation if a promise does not hold there."""
        if move == "append":
            file = self.steps.appended(state.file, state.appended)
            after = state._replace(file=file, appended=state.appended + 1)
        elif move == "end":
            after = state._replace(file=self.steps.ended(state.file), tracker=ENDED)
        elif move == "die":
            after = state._replace(tracker=DEAD)
        elif move == "forget":
            far_end = self.steps.forgotten(state.far_end)
            after = state._replace(far_end=far_end, is_forgotten=True, left=_less(state, "forgets"))
        elif move == "copy":
            after = state._replace(copy=state.file, left=_less(state, "copies"))
        elif move.startswith("crash "):
            after = self._moved(state, move[-1], IDLE)._replace(left=_less(state, "crashes"))
        else:
            name, _, fault = move.partition(":")
            after = self._engine(state, name, fault)
        self._require_promises(after)
        return after

    def _engine(self, state: State, name: str, fault: str = "", *, is_asked_anew: bool = False) -> State:
        """The engine up to its next failpoint."""
        is_copy = name == COPIER
        position = state.copier if is_copy else state.engines[self.names.index(name)]
        is_dead = state.tracker == DEAD and not is_copy  # nobody takes a copy's tracker for dead
        view = View(
            state.copy if is_copy else state.file, state.far_end, position, fault, is_copy, is_dead, is_asked_anew
        )
        try:
            step = self.steps.after(view)
        except (AssertionError, sqlite3.Error) as error:
            raise Violation(f"engine {name}: {error!r}") from error
        after = self._moved(state, name, step.position)._replace(far_end=step.far_end)
        if fault:
            after = after._replace(left=_less(state, fault))
        return after._replace(copy=step.file) if is_copy else after._replace(file=step.file)

    def _moved(self, state: State, name: str, position: int) -> State:
        if name == COPIER:
            return state._replace(copier=position)
        at = self.names.index(name)
        return state._replace(engines=(*state.engines[:at], position, *state.engines[at + 1 :]))

    # -- what must hold

    def _require_promises(self, state: State) -> None:
        """What holds in every state: keys never change their content, one registration, and a finish names it all."""
        is_alone = len(state.engines) == 1 and state.copy == NOBODY and not state.is_forgotten
        known = (state.far_end, state.appended, is_alone, state.is_forgotten)
        if known in self._promised:
            return
        far_end = self.steps.far_end(state.far_end)
        for uri, digests in far_end.history.items():
            if len(set(digests)) > 1:
                raise Violation(f"{uri} held different bodies")
        if len(far_end.runs) > 1 and not state.is_forgotten:
            raise Violation("registered as two runs")
        for run in far_end.runs.values():
            if run.finish is not None:
                _require_delivered(far_end, run, state.appended, is_alone=is_alone)
        self._promised.add(known)

    def require_progress(self, state: State) -> None:
        """From here, when all faults end, everything is delivered. Raises Violation."""
        for name, position in [*zip(self.names, state.engines, strict=True), (COPIER, state.copier)]:
            if position != IDLE:
                state = self._turn(state, name)
        tracker = state.tracker if state.tracker == ENDED else DEAD
        known = (state.file, state.far_end, state.appended, tracker, state.is_forgotten)
        if known in self._delivered:
            return
        state = state._replace(tracker=tracker)
        for _ in range(TURNS_MAX):
            file = self.steps.file(state.file)
            if file.is_finished:
                break
            state = self._turn(state, "A", is_asked_anew=state.is_forgotten and file.is_over)
        else:
            raise Violation("without any further fault the run is never finished")
        self._require_promises(state)
        if not any(run.finish for run in self.steps.far_end(state.far_end).runs.values()):
            raise Violation("the spool says finished, the service does not")
        self._delivered.add(known)

    def _turn(self, state: State, name: str, *, is_asked_anew: bool = False) -> State:
        """To the end of its turn."""
        for _ in range(STEPS_MAX):
            state = self._engine(state, name, is_asked_anew=is_asked_anew)
            if (state.copier if name == COPIER else state.engines[self.names.index(name)]) == IDLE:
                return state
        raise Violation("a turn goes on and on")


def _left(state: State, kind: str) -> int:
    return state.left[KINDS.index(kind)]


def _less(state: State, kind: str) -> tuple[int, ...]:
    return tuple(count - (name == kind) for name, count in zip(KINDS, state.left, strict=True))


def _require_delivered(far_end: MemoryFarEnd, run: memory_far_end.Run, appended: int, *, is_alone: bool) -> None:
    told = Told(plays.HEADERS[0], [(plays.header_of(number), plays.rows_of(number)) for number in range(appended)])
    evidence = oracle.Evidence(dict(far_end.objects), run.finish, run.prefix, dict(far_end.history))
    if not is_alone:  # the slower one may leave an object that nobody names
        named = {uri: body for uri, body in evidence.objects.items() if evidence.names(uri)}
        evidence = replace(evidence, objects=named)
    try:
        oracle.conserved(evidence, told)
        oracle.intact(evidence, told)
        oracle.ordered(evidence, told)
    except oracle.Verdict as verdict:
        raise Violation(str(verdict)) from verdict
