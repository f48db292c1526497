"""The retry policy: what is tried again, after which wait, and what ends it."""

import random
from collections.abc import Callable

import pytest

from streaming.errors import BadArgument, Busy, GaveUp, Parked, StreamError, Transient, Unauthorized
from streaming.upload import retry
from streaming.upload.retry import persistently
from tests.support.recorded import Waits


class Full(random.Random):
    """Jitter that always takes the whole of the range: shows the ceiling of each wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def failing(*errors: StreamError) -> Callable[[], str]:
    left = list(errors)

    def step() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return step


def outage(retry_after_s: float | None = None) -> Transient:
    return Busy("not now", cause="HTTP 503", retry_after_s=retry_after_s)


def silent(_problem: StreamError | None) -> None:
    """Reports to nobody."""


def test_backoff_doubles_up_to_a_minute() -> None:
    waits = Waits()
    assert persistently(failing(*[outage()] * 9), pause=waits, report=silent, jitter=Full()) == "done"
    assert waits.asked_s == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_jitter_is_full_and_differs_between_processes() -> None:
    seen = []
    for seed in range(40):
        waits = Waits()
        persistently(failing(*[outage()] * 5), pause=waits, report=silent, jitter=random.Random(seed))
        assert all(0 <= wait_s <= ceiling_s for wait_s, ceiling_s in zip(waits.asked_s, [2, 4, 8, 16, 32], strict=True))
        seen.append(waits.asked_s[-1])
    assert len(set(seen)) == 40
    assert min(seen) < 4
    assert max(seen) > 28


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7.0, 7.0), (0.0, 0.0), (900.0, 900.0), (1e9, 900.0)])
def test_retry_after_is_the_least_wait_and_capped_at_15_minutes(asked_s: float, waited_s: float) -> None:
    waits = Waits()
    persistently(failing(outage(asked_s)), pause=waits, report=silent, jitter=Full())
    assert waits.asked_s == [waited_s + 2]


def test_refused_token_is_asked_again_every_five_minutes() -> None:
    waits = Waits()
    persistently(failing(*[Unauthorized("no")] * 4), pause=waits, report=silent)
    assert waits.asked_s == [300] * 4


def test_refused_token_ends_it_where_nobody_waits_for_a_token() -> None:
    waits = Waits()
    with pytest.raises(Unauthorized):
        persistently(failing(Unauthorized("no")), pause=waits, report=silent, waits_for_token=lambda: False)
    assert waits.asked_s == []


def test_progress_begins_the_backoff_anew() -> None:
    waits = Waits()
    achieved = iter([0, 0, 0, 0, 1, 1, 1])
    step = failing(*[outage()] * 6)
    persistently(step, pause=waits, report=silent, progress=lambda: next(achieved), jitter=Full())
    assert waits.asked_s == [2, 4, 8, 1, 2, 4]


def test_huge_number_of_failures_does_not_overflow() -> None:
    waits = Waits(at_most=3000)
    persistently(failing(*[outage()] * 2000), pause=waits, report=silent, jitter=Full())
    assert waits.asked_s[-1] == retry.BACKOFF_MAX_S


@pytest.mark.parametrize("error", [Parked("x"), BadArgument("x"), GaveUp("x")])
def test_other_errors_end_it_at_once(error: StreamError) -> None:
    waits = Waits()
    with pytest.raises(type(error)):
        persistently(failing(error), pause=waits, report=silent)
    assert waits.asked_s == []


def test_end_of_the_time_interrupts_it() -> None:
    with pytest.raises(GaveUp):
        persistently(failing(*[outage()] * 9), pause=Waits(at_most=3), report=silent)


def test_every_problem_is_reported_and_its_end_too() -> None:
    told: list[str] = []
    persistently(failing(outage(), outage()), pause=Waits(), report=lambda problem: told.append(str(problem)))
    assert told == ["not now", "not now", "None"]
