"""Small worlds, explored whole; and that the explorer finds what is broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spool import Segment, Spool
from streaming.upload import delivery
from tests.model.explore import explore, replay, shortest, wander
from tests.model.world import Bounds, Violation, made

ONE_ENGINE = Bounds(engines=1, batches=1, crashes=1, lost=1, down=0, tracker_may_die=False)
RANDOM = Bounds(engines=2, batches=5, crashes=4, lost=4, down=3)
CALM = Bounds(engines=2, batches=4, crashes=1, lost=0, down=0, tracker_may_die=False)  # who seals what, mostly
ODD = Bounds(engines=1, batches=2, crashes=1, lost=1, unauthorized=1, refused=1, forgets=1, copies=1)
SEEDS = range(5)


@pytest.fixture
def place() -> Iterator[Path]:
    with made() as folder:
        yield folder


@pytest.mark.timeout(300)
def test_every_interleaving_of_tracker_and_engine_keeps_the_promises(place: Path) -> None:
    seen = explore(place, ONE_ENGINE)
    assert len(seen.seen) > 100
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
    again = replay(place, RANDOM, first.moves)
    again.require_progress()
    assert again.service.evidence() == first.service.evidence()


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
