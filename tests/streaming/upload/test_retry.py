"""The retry policy: what is tried again, after which wait, and what ends it."""

import random

import pytest

from streaming.errors import BadArgument, Busy, Parked, StreamError, Transient, Unauthorized
from streaming.upload import retry
from streaming.upload.retry import Attempts


class Full(random.Random):
    """Jitter that always takes the whole of the range: shows the ceiling of each wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def outage(retry_after_s: float | None = None) -> Transient:
    return Busy("not now", cause="HTTP 503", retry_after_s=retry_after_s)


def waits_s(count: int, attempts: Attempts) -> list[float]:
    return [attempts.failed(outage()) for _ in range(count)]


def test_backoff_doubles_up_to_a_minute() -> None:
    assert waits_s(9, Attempts(jitter=Full())) == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_jitter_is_full_and_differs_between_processes() -> None:
    seen = []
    for seed in range(40):
        asked_s = waits_s(5, Attempts(jitter=random.Random(seed)))
        assert all(0 <= wait_s <= ceiling_s for wait_s, ceiling_s in zip(asked_s, [2, 4, 8, 16, 32], strict=True))
        seen.append(asked_s[-1])
    assert len(set(seen)) == 40
    assert min(seen) < 4
    assert max(seen) > 28


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7.0, 7.0), (0.0, 0.0), (900.0, 900.0), (1e9, 900.0)])
def test_retry_after_is_the_least_wait_and_capped_at_15_minutes(asked_s: float, waited_s: float) -> None:
    assert Attempts(jitter=Full()).failed(outage(asked_s)) == waited_s + 2


def test_refused_token_is_asked_again_every_five_minutes() -> None:
    attempts = Attempts(jitter=Full())
    assert [attempts.failed(Unauthorized("no")) for _ in range(4)] == [300] * 4
    assert attempts.failed(outage()) == 2


def test_what_is_achieved_begins_the_backoff_anew() -> None:
    attempts = Attempts(jitter=Full())
    waits_s(3, attempts)
    attempts.begin_anew()
    assert waits_s(3, attempts) == [2, 4, 8]


def test_huge_number_of_failures_does_not_overflow() -> None:
    assert waits_s(2000, Attempts(jitter=Full()))[-1] == retry.BACKOFF_MAX_S


@pytest.mark.parametrize("error", [Parked("x"), BadArgument("x")])
def test_other_errors_end_it_at_once(error: StreamError) -> None:
    with pytest.raises(type(error)):
        Attempts().failed(error)
