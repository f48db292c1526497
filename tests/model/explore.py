"""Every order of events in a small world (`tests.model.world`), or long random ones.

Fewest faults first, then fewest moves, so that the first violation is a short one. A state that was seen with as many
faults left is not looked at twice, so the search ends.

    python -m tests.model.explore --engines 2 --batches 3 --crashes 2 --lost 2      # all of it
    python -m tests.model.explore --seed 7 --minutes 10                             # long random ones
    python -m tests.model.explore --replay 'append,A,A,crash A,B:lost'              # one sequence again
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.model.engines import made
from tests.model.world import Bounds, State, Violation, World

TOLD_EVERY_S = 30.0


class Node(NamedTuple):
    """A state, and how it was reached first."""

    state: State
    before: Node | None = None
    move: str = ""

    @property
    def moves(self) -> tuple[str, ...]:
        found, node = [], self
        while node.before is not None:
            found.append(node.move)
            node = node.before
        return tuple(reversed(found))


class Explored:
    """What an exploration has seen."""

    def __init__(self, world: World) -> None:
        self._steps = world.steps
        self._seen: dict[tuple[object, ...], list[tuple[int, ...]]] = {}
        self.transitions = 0
        self.waiting = 0  # ways that were not gone: 0 if everything was seen

    @property
    def states(self) -> int:
        return len(self._seen)

    def is_new(self, state: State) -> bool:
        """Whether it was not seen with at least as many faults of each kind left; notes that it is seen now."""
        budgets = self._seen.setdefault(state.key, [])
        if any(all(map(int.__ge__, known, state.left)) for known in budgets):
            return False
        budgets[:] = [known for known in budgets if not all(map(int.__le__, known, state.left))] + [state.left]
        return True

    def __str__(self) -> str:
        end = f"{self.waiting:,} ways not gone" if self.waiting else "all of it"
        return (
            f"{self.states:,} states, {self.transitions:,} transitions, put together from {self._steps.made:,} steps"
            f" ({self._steps.made_again:,} made again), {time.process_time():.0f} s of CPU; {end}"
        )


def explore(place: Path, bounds: Bounds, *, until: float = float("inf"), is_told: bool = False) -> Explored:
    """Every reachable state. Raises Violation with the moves that lead there."""
    with opened(place, bounds) as world:
        found = Explored(world)
        most = sum(world.origin.left)
        ways: list[deque[Node]] = [deque() for _ in range(most + 1)]  # by how many faults they take
        found.is_new(world.origin)
        ways[0].append(Node(world.origin))
        tell_at = time.monotonic() + TOLD_EVERY_S
        for waiting in ways:
            while waiting and time.monotonic() < until:
                for node in _following(world, waiting.popleft(), found):
                    ways[most - sum(node.state.left)].append(node)
                if is_told and time.monotonic() > tell_at:
                    tell_at += TOLD_EVERY_S
                    found.waiting = sum(map(len, ways))
                    print(found, flush=True)
        found.waiting = sum(map(len, ways))
        return found


def _following(world: World, node: Node, found: Explored) -> Iterator[Node]:
    """What every possible move leads to, if that is new."""
    move = ""
    try:
        world.require_progress(node.state)
        for move in world.possible(node.state):
            found.transitions += 1
            state = world.make(node.state, move)
            if found.is_new(state):
                yield Node(state, node, move)
    except Violation as violation:
        violation.moves = (*node.moves, move) if move else node.moves
        raise


@contextmanager
def opened(place: Path, bounds: Bounds) -> Iterator[World]:
    world = World(place, bounds)
    with closing(world.steps):
        yield world


def wander(place: Path, bounds: Bounds, seed: int) -> Node:
    """One long random sequence, with a probe for progress at its end. Raises Violation."""
    chance = random.Random(seed)
    with opened(place, bounds) as world:
        node = Node(world.origin)
        while not world.is_over(node.state):  # engines on a copy of a run that never ended there would go on for ever
            node = _made(world, node, chance.choice(world.possible(node.state)))
        return _progressing(world, node)


def replay(place: Path, bounds: Bounds, moves: tuple[str, ...]) -> Node:
    """One sequence of moves again, and the same probe."""
    with opened(place, bounds) as world:
        node = Node(world.origin)
        for move in moves:
            node = _made(world, node, move)
        return _progressing(world, node)


def _made(world: World, node: Node, move: str) -> Node:
    try:
        return Node(world.make(node.state, move), node, move)
    except Violation as violation:
        violation.moves = (*node.moves, move)
        raise


def _progressing(world: World, node: Node) -> Node:
    try:
        world.require_progress(node.state)
    except Violation as violation:
        violation.moves = node.moves
        raise
    return node


def shortest(place: Path, bounds: Bounds, violation: Violation) -> Violation:
    """The same kind of violation with as few moves as leaving out single ones can reach."""
    found = violation
    shrinks = True
    while shrinks:
        shrinks = False
        for at in range(len(found.moves)):
            shorter = _tried(place, bounds, (*found.moves[:at], *found.moves[at + 1 :]))
            if shorter is not None and len(shorter.moves) < len(found.moves):
                found, shrinks = shorter, True
                break
    return found


def _tried(place: Path, bounds: Bounds, moves: tuple[str, ...]) -> Violation | None:
    with opened(place, bounds) as world:
        node = Node(world.origin)
        try:
            for move in moves:
                if move not in world.possible(node.state):
                    return None
                node = _made(world, node, move)
            _progressing(world, node)
        except Violation as violation:
            return violation
    return None


def main() -> int:
    form = argparse.ArgumentParser(
        prog="python -m tests.model.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in vars(Bounds()).items():
        form.add_argument(f"--{name.replace('_', '-')}", type=int, default=int(default))
    form.add_argument("--seed", type=int, help="random sequences, beginning with this seed, instead of all")
    form.add_argument("--minutes", type=float, default=float("inf"))
    form.add_argument("--replay", help="one sequence of moves, as a violation prints it")
    given = vars(form.parse_args())
    seed, minutes, again = given.pop("seed"), given.pop("minutes"), given.pop("replay")
    bounds, until = Bounds(**given), time.monotonic() + 60 * minutes
    with made() as place:
        try:
            if again is not None:
                replay(place, bounds, tuple(again.split(",")))
            elif seed is not None:
                print(f"{_wander_until(place, bounds, seed, until)} random sequences from seed {seed}, no violation")
            else:
                print(f"{explore(place, bounds, until=until, is_told=True)}: no violation")
        except Violation as violation:
            print(f"VIOLATION: {shortest(place, bounds, violation)}")
            return 1
    return 0


def _wander_until(place: Path, bounds: Bounds, seed: int, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        wander(place, bounds, seed + count)
        count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
