"""Small worlds, explored whole; and that the explorer finds what is broken."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spool import Segment, Spool
from streaming.upload import delivery
from tests.model.engines import Engine, Stage, made
from tests.model.explore import explore, opened, replay, shortest, wander
from tests.model.positions import NOW
from tests.model.world import Bounds, Violation
from tests.support import plays

ONE_ENGINE = Bounds(engines=1, batches=1, crashes=1, lost=1, down=0, tracker_may_die=False)
TWO_ENGINES = Bounds(engines=2, batches=1, crashes=1, lost=1, down=0)
RANDOM = Bounds(engines=2, batches=5, crashes=4, lost=4, down=3)
CALM = Bounds(engines=2, batches=4, crashes=1, lost=0, down=0, tracker_may_die=False)  # who seals what, mostly
ODD = Bounds(engines=1, batches=2, crashes=1, lost=1, unauthorized=1, refused=1, forgets=1, copies=1)
SEEDS = range(5)


@pytest.fixture
def place() -> Iterator[Path]:
    with made() as folder:
        yield folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bounds", [ONE_ENGINE, TWO_ENGINES], ids=["one engine", "two engines"])
def test_every_interleaving_of_tracker_and_engines_keeps_the_promises(place: Path, bounds: Bounds) -> None:
    seen = explore(place, bounds)
    assert seen.states > 50
    assert seen.waiting == 0


@pytest.mark.timeout(300)
def test_two_engines_under_a_lying_lock_keep_the_promises(place: Path) -> None:
    for seed in SEEDS:
        wander(place, RANDOM, seed)
        wander(place, CALM, seed)


@pytest.mark.timeout(300)
def test_service_that_forgets_and_refuses_and_a_copy_on_another_host_cost_no_row(place: Path) -> None:
    for seed in SEEDS:
        wander(place, ODD, seed)


def test_a_sequence_can_be_replayed(place: Path) -> None:
    first = wander(place, RANDOM, 7)
    assert replay(place, RANDOM, first.moves).state == first.state


@pytest.mark.timeout(300)
def test_two_engines_that_share_a_file_do_what_each_was_seen_to_do_alone(place: Path) -> None:
    """The explorer puts worlds together from single steps: here the same moves are made in one world, for real."""
    (template,) = place.glob("*.template")
    for seed in SEEDS:
        stage = Stage(Path(shutil.copy(template, place / "elsewhere" / "shared.spool")))
        engines = {name: Engine(stage) for name in "AB"}
        with opened(place, RANDOM) as world:
            state = world.origin
            for move in wander(place, RANDOM, seed).moves:
                make_for_real(stage, engines, move, state.appended)
                state = world.make(state, move)
                real = world.steps.number_of_file(stage.path), world.steps.number_of_far_end(stage.far_end)
                assert real == (state.file, state.far_end), move
        stage.path.unlink()


def make_for_real(stage: Stage, engines: dict[str, Engine], move: str, appended: int) -> None:
    if move == "die":
        stage.tracker_is_dead = True
    elif move.startswith("crash "):
        engines[move[-1]].crash()
    elif move in ("append", "end"):
        with closing(Spool(stage.path, clock=lambda: NOW)) as spool:
            if move == "append":
                spool.append([plays.batch_of(appended)])
            else:
                spool.end(exit_code=0, run_status="finished", ended_at=NOW)
    else:
        name, _, fault = move.partition(":")
        engines[name].go_on(fault)


def test_a_key_that_does_not_name_its_content_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "object_key", lambda segment: f"{segment.seq:08d}-{'0' * 12}.csv.gz")
    with pytest.raises(Violation) as found:
        explore(place, ONE_ENGINE)
    assert len(shortest(place, ONE_ENGINE, found.value).moves) <= len(found.value.moves)


def test_a_mark_that_is_not_kept_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(_spool: Spool, _segment: Segment, *, uri: str, etag: str) -> None: ...

    monkeypatch.setattr(Spool, "mark_sent", forgets)
    with pytest.raises(Violation):
        explore(place, ONE_ENGINE)
