"""Every order of events in a small world (`tests.model.world`), or long random ones.

Depth first, fewest faults first. Between two quiet moments a state is reached again by making its moves again; from a quiet
one on a snapshot is gone on from. A state that was seen with as many faults left is not looked at twice, so the search ends.

    python -m tests.model.explore --engines 2 --batches 3 --crashes 2 --lost 2      # all of it
    python -m tests.model.explore --seed 7 --minutes 10                             # long random ones
    python -m tests.model.explore --replay 'append,A,A,crash A,B:lost'              # one sequence again
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.world import Bounds, Snapshot, Violation, World, made

TOLD_EVERY_S = 30.0


@dataclass
class Explored:
    """What an exploration has seen."""

    seen: defaultdict[bytes, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))
    transitions: int = 0
    repeated: int = 0  # moves made again to get back to a state
    deepest: int = 0
    waiting: int = 0  # ways that were not gone: 0 if everything was seen

    def is_new(self, state: bytes, budget: tuple[int, ...]) -> bool:
        """Whether it was not seen with at least as many faults of each kind left; notes that it is seen now."""
        budgets = self.seen[state]
        if any(all(map(int.__ge__, known, budget)) for known in budgets):
            return False
        budgets[:] = [known for known in budgets if not all(map(int.__le__, known, budget))] + [budget]
        return True

    def __str__(self) -> str:
        end = f"{self.waiting} ways not gone" if self.waiting else "all of it"
        return (
            f"{len(self.seen):,} states, {self.transitions:,} transitions ({self.repeated:,} made again),"
            f" at most {self.deepest} moves, {time.process_time():.0f} s of CPU; {end}"
        )


@dataclass(frozen=True)
class Way:
    """From a snapshot by these moves, all but the last of which have been made before."""

    start: Snapshot
    moves: tuple[str, ...]


def explore(place: Path, bounds: Bounds, *, until: float = float("inf"), is_told: bool = False) -> Explored:
    """Every reachable state. Raises Violation with the moves that lead there."""
    world = World(place, bounds)
    found = Explored()
    ways: defaultdict[int, list[Way]] = defaultdict(list)  # by how many faults they take
    found.is_new(world.state(), world.budget())
    first = _branch(world, world.origin, (), ways)
    assert first is not None
    ways[0].append(Way(world.origin, (first,)))
    tell_at = time.monotonic() + TOLD_EVERY_S
    while ways and time.monotonic() < until:
        way = _next(ways)
        world.restore(way.start)
        for move in way.moves[:-1]:
            world.make(move, is_checked=False)
        found.repeated += len(way.moves) - 1
        _follow(world, way, found, ways)
        if is_told and time.monotonic() > tell_at:
            tell_at += TOLD_EVERY_S
            print(f"{found}; {sum(map(len, ways.values()))} ways wait", flush=True)
    found.waiting = sum(map(len, ways.values()))
    world.abandon()
    return found


def _next(ways: defaultdict[int, list[Way]]) -> Way:
    faults = min(ways)
    way = ways[faults].pop()
    if not ways[faults]:
        del ways[faults]
    return way


def _follow(world: World, way: Way, found: Explored, ways: defaultdict[int, list[Way]]) -> None:
    """Go on by the first move that is possible, as long as that leads to something new; the others wait."""
    start, since, move = way.start, way.moves[:-1], way.moves[-1]
    while True:
        world.make(move)
        found.transitions += 1
        found.deepest = max(found.deepest, len(world.moves))
        if not found.is_new(world.state(), world.budget()):
            return
        since = (*since, move)
        if world.is_quiet:
            start, since = world.snapshot(), ()
            world.require_progress()
            world.restore(start)
        following = _branch(world, start, since, ways)
        if following is None:
            return
        move = following


def _branch(world: World, start: Snapshot, since: tuple[str, ...], ways: defaultdict[int, list[Way]]) -> str | None:
    """The first possible move, None without any; all others wait as ways."""
    following, *others = world.possible() or [None]
    left = sum(world.budget())
    for move in reversed(others):
        assert move is not None
        ways[_is_fault(move) - left].append(Way(start, (*since, move)))
    return following


def _is_fault(move: str) -> bool:
    return ":" in move or move.startswith("crash") or move in ("forget", "copy")


def wander(place: Path, bounds: Bounds, seed: int) -> World:
    """One long random sequence, with a probe for progress at its end. Raises Violation."""
    chance = random.Random(seed)
    world = World(place, bounds)
    while not world.is_over:  # engines on a copy of a run that never ended there would go on for ever
        world.make(chance.choice(world.possible()))
    world.require_progress()
    world.abandon()
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
            shorter = _tried(place, bounds, (*found.moves[:at], *found.moves[at + 1 :]))
            if shorter is not None and len(shorter.moves) < len(found.moves):
                found, shrinks = shorter, True
                break
    return found


def _tried(place: Path, bounds: Bounds, moves: tuple[str, ...]) -> Violation | None:
    world = World(place, bounds)
    try:
        for move in moves:
            if move not in world.possible():
                return None
            world.make(move)
        world.require_progress()
    except Violation as violation:
        return violation
    finally:
        world.abandon()
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
                replay(place, bounds, tuple(again.split(","))).require_progress()
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
