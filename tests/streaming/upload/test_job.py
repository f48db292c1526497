"""What follows from a turn for a run in the engine: whether it is over for it, and when it is its turn again."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streaming.errors import Busy, Unreachable
from streaming.upload.job import AWAITED_LOOK_S, HOPELESS_S, HURRIED_INTERVAL_S, Job
from streaming.upload.model import Outcome, Terms, Turn
from streaming.upload.peers import Peer
from streaming.upload.reachability import AllReached
from streaming.upload.run_delivery import RunDelivery

TERMS = Terms("a-token", "http://127.0.0.1:9", None)
INTERVAL_S = 60.0
LONG_S = 240.0
UPLOADED = Turn(Outcome.UPLOADED, is_open=True)
WAITING = Turn(Outcome.WAITING, LONG_S, Unreachable("nobody answers", cause="refused"), is_open=True)
PARKED = Turn(Outcome.PARKED)


def job(**state: Any) -> Job:
    return Job(RunDelivery(Path("/nowhere/run.spool"), AllReached().by), TERMS, interval_s=INTERVAL_S, **state)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with socket.socket() as connection:
        yield Peer(connection)


def is_over(of: Job, turn: Turn, *, is_stopping: bool = False) -> bool:
    return of.is_over_after(turn, is_stopping=is_stopping)


def test_recorded_run_goes_on_after_an_upload_until_its_tracker_is_gone(peer: Peer) -> None:
    assert not is_over(job(trackers={peer}), UPLOADED)
    assert not is_over(job(pidfd=7), UPLOADED), "its tracker has closed the connection and lives"
    assert is_over(job(), UPLOADED)
    assert is_over(job(trackers={peer}), Turn(Outcome.UPLOADED, is_open=False)), "it has ended"


def test_recorded_run_is_over_after_an_upload_when_somebody_stops_the_engine(peer: Peer) -> None:
    assert is_over(job(trackers={peer}), UPLOADED, is_stopping=True)


def test_run_that_was_left_behind_has_its_turns_while_it_goes_on() -> None:
    assert not is_over(job(is_adopted=True), Turn(Outcome.GOES_ON))
    assert is_over(job(is_adopted=True), WAITING)


def test_watched_run_is_over_when_it_is_delivered_and_else_looked_at_now_and_then() -> None:
    watched = job(is_watched=True)
    assert not is_over(watched, PARKED)
    assert watched.pause_s(PARKED, is_hurried=False) == HOPELESS_S
    assert is_over(watched, Turn(Outcome.DELIVERED))


def test_upload_is_followed_by_the_interval_or_soon_by_the_next_when_all_hurry() -> None:
    assert job().pause_s(UPLOADED, is_hurried=False) == INTERVAL_S
    assert job().pause_s(UPLOADED, is_hurried=True) == HURRIED_INTERVAL_S
    assert job().pause_s(Turn(Outcome.GOES_ON), is_hurried=False) == 0.0


def test_outage_is_looked_at_soon_while_somebody_waits_and_else_as_the_policy_says(peer: Peer) -> None:
    assert job().pause_s(WAITING, is_hurried=False) == LONG_S
    for hasty in (job(drains={peer}), job(awaited_at=1.0)):
        assert hasty.pause_s(WAITING, is_hurried=False) == AWAITED_LOOK_S
    assert job().pause_s(WAITING, is_hurried=True) == AWAITED_LOOK_S


def test_service_that_asks_for_time_gets_it_though_somebody_waits(peer: Peer) -> None:
    asked = Turn(Outcome.WAITING, LONG_S, Busy("busy", cause="HTTP 503", retry_after_s=LONG_S))
    assert job(drains={peer}).pause_s(asked, is_hurried=False) == LONG_S


def test_run_is_given_up_only_at_a_standstill_and_while_nobody_waits_for_it(peer: Peer) -> None:
    assert job(last=WAITING).may_be_given_up
    for kept in (
        job(),
        job(last=UPLOADED),
        job(last=WAITING, drains={peer}),
        job(last=WAITING, is_watched=True),
        job(last=WAITING, is_running=True),
    ):
        assert not kept.may_be_given_up
