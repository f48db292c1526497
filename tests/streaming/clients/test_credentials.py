"""The keeper of STS credentials: refreshed early, kept while the refresh is down, never in a busy loop."""

from collections.abc import Callable

import pytest

from streaming.clients import credentials
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.errors import Busy, CredentialsRefused, RunUnknown, StreamError, Transient, Unauthorized

REFUSED = CredentialsRefused("S3 answered 403 ExpiredToken")
DOWN = Busy("down", cause="HTTP 503")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Service:
    """Issues numbered credentials, or fails."""

    def __init__(self, lifetime_s: float | None) -> None:
        self.lifetime_s = lifetime_s
        self.failure: StreamError | None = None
        self.asked_count = 0

    def refresh(self, run_id: str) -> Credentials:
        self.asked_count += 1
        if self.failure:
            raise self.failure
        return Credentials(f"{run_id}-{self.asked_count}", "secret", "token", self.lifetime_s)


def keeper_of(lifetime_s: float | None) -> tuple[CredentialKeeper, Service, Clock]:
    """A keeper that holds credentials number 0 of run r, received at the clock's time."""
    service, clock = Service(lifetime_s), Clock()
    keeper = CredentialKeeper(service.refresh, clock=clock)
    keeper.keep("r", Credentials("r-0", "secret", "token", lifetime_s))
    return keeper, service, clock


def advance(clock: Clock, keeper: CredentialKeeper, by_s: float) -> str:
    clock.now_s += by_s
    return keeper.fresh("r").access_key


def test_repr_shows_no_key() -> None:
    shown = repr(Credentials("AKIACANARY", "canary-secret", "canary-token", 60.0))
    assert "CANARY" not in shown
    assert "canary" not in shown


@pytest.mark.parametrize(("lifetime_s", "ahead_s"), [(3600.0, 300.0), (900.0, 300.0), (600.0, 200.0), (3.0, 1.0)])
def test_refreshed_when_little_of_the_lifetime_remains(lifetime_s: float, ahead_s: float) -> None:
    keeper, service, clock = keeper_of(lifetime_s)
    assert advance(clock, keeper, lifetime_s - ahead_s - 0.1) == "r-0"
    assert service.asked_count == 0
    assert advance(clock, keeper, 0.2) == "r-1"


def test_unknown_lifetime_is_left_to_s3() -> None:
    keeper, service, clock = keeper_of(None)
    assert advance(clock, keeper, 1e6) == "r-0"
    assert service.asked_count == 0


def test_none_at_hand_asks_and_tells_why_not() -> None:
    service = Service(3600.0)
    keeper = CredentialKeeper(service.refresh, clock=Clock())
    service.failure = DOWN
    with pytest.raises(Busy):
        keeper.fresh("r")
    service.failure = None
    assert keeper.fresh("r").access_key == "r-2"
    assert keeper.fresh("other").access_key == "other-3"


@pytest.mark.parametrize("failure", [DOWN, Unauthorized("no")])
def test_working_ones_stay_in_use_while_the_refresh_fails(failure: StreamError) -> None:
    keeper, service, clock = keeper_of(3600.0)
    service.failure = failure
    assert advance(clock, keeper, 3500.0) == "r-0"
    assert advance(clock, keeper, 10_000.0) == "r-0"
    service.failure = None
    assert advance(clock, keeper, 60.0) == "r-3"


def test_failing_refresh_is_not_asked_for_every_segment() -> None:
    keeper, service, clock = keeper_of(3600.0)
    service.failure = DOWN
    clock.now_s += 3500
    for _ in range(100):
        advance(clock, keeper, 1.0)
    assert service.asked_count == 100 // credentials.FAILED_PAUSE_S + 1


def test_run_that_the_service_forgot_is_told() -> None:
    keeper, service, clock = keeper_of(3600.0)
    service.failure = RunUnknown("gone", status=404)
    with pytest.raises(RunUnknown):
        advance(clock, keeper, 3500.0)


@pytest.mark.parametrize("lifetime_s", [3.0, 0.5, 0.0, -60.0])
def test_however_short_the_lifetime_refreshes_are_a_second_apart(lifetime_s: float) -> None:
    keeper, service, clock = keeper_of(lifetime_s)
    for _ in range(1000):
        advance(clock, keeper, 0.01)
    assert 0 < service.asked_count <= 10


def force(keeper: CredentialKeeper) -> str:
    return keeper.replace_refused("r", REFUSED).access_key


def outcome_of(action: Callable[[], object]) -> type[BaseException] | None:
    try:
        action()
    except StreamError as error:
        return type(error)
    return None


def test_refused_ones_are_replaced_once_in_thirty_seconds() -> None:
    keeper, service, clock = keeper_of(3600.0)
    assert force(keeper) == "r-1"
    clock.now_s += 10
    with pytest.raises(Transient) as caught:
        force(keeper)
    assert caught.value.retry_after_s == 20
    assert caught.value.cause == "credentials refused"
    clock.now_s += 20
    assert force(keeper) == "r-2"
    assert service.asked_count == 2


def test_forced_refresh_that_fails_counts_too() -> None:
    keeper, service, clock = keeper_of(3600.0)
    service.failure = DOWN
    seen = []
    for _ in range(31):
        seen.append(outcome_of(lambda: force(keeper)))
        clock.now_s += 1
    assert service.asked_count == 2
    assert seen == [Busy, *[Transient] * 29, Busy]


def test_pause_after_a_forced_refresh_outlives_a_usual_one() -> None:
    keeper, _, clock = keeper_of(30.0)
    force(keeper)
    assert advance(clock, keeper, 21.0) == "r-2"
    assert outcome_of(lambda: force(keeper)) is Transient


def test_expired_ones_are_replaced_as_soon_as_the_service_is_back() -> None:
    keeper, service, clock = keeper_of(3.0)
    service.failure = DOWN
    for _ in range(5):
        clock.now_s += 1
        assert outcome_of(lambda: keeper.fresh("r")) is None
    assert outcome_of(lambda: force(keeper)) is Busy
    service.failure = None
    assert force(keeper).startswith("r-")
