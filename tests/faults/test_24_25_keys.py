"""Faults 24 and 25: STS credentials and the token, expired, revoked, refused, or short-lived."""

import pytest

from spool import RunState
from streaming.upload.model import Outcome
from tests.support import faults, processes
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.processes import Home
from tests.support.recorded import Waits, connect, drain, problems, record
from tests.support.secrecy import secret
from tests.support.streamed import Streamed


def expire_all(far_end: FarEnd) -> Fault:
    """Just before this PUT is looked at, all credentials expire."""
    return Fault("expires now", prepare=lambda _store, _request: far_end.grants.expire_all())


def revoke_all(far_end: FarEnd) -> Fault:
    return Fault("revoked now", prepare=lambda _store, _request: far_end.grants.revoke_all())


class Clock:
    """Passes only as the waits of the retry policy ask."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# -- 24: STS credentials -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [expire_all, revoke_all])
@pytest.mark.parametrize("status", [400, 403])
def test_fault_24_ended_in_mid_batch_means_one_forced_refresh(
    home: Home, far_end: FarEnd, how: object, status: int
) -> None:
    far_end.store.expired_token_status = status
    recorded = record(home.spool_dir, far_end, segments=4)
    far_end.nth("put", 2, how(far_end))  # type: ignore[operator]
    waits = Waits()
    assert drain(recorded, far_end, waits) is Outcome.DELIVERED
    assert far_end.journal.count("refresh") == 1
    assert far_end.journal.count("put") == 5
    assert waits.asked_s == []
    recorded.judge(far_end)


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId"])
def test_fault_24_refused_though_valid_is_one_refresh_in_thirty_seconds(home: Home, far_end: FarEnd, code: str) -> None:
    recorded = record(home.spool_dir, far_end, segments=3)
    clock = Clock()
    clients = connect(far_end, clock=clock)

    def pass_time(_count: int) -> None:
        clock.now_s += waits.asked_s[-1]

    waits = Waits(at_most=40, then=pass_time)
    far_end.always("put", faults.s3_error(code))
    outcome, causes = problems(recorded, far_end, waits, clients=clients)
    assert outcome is Outcome.WAITING
    assert set(causes) == {"credentials refused"}
    assert recorded.run().problem_cause == "credentials refused"
    passed_s = clock.now_s - 1000.0
    assert 2 <= far_end.journal.count("refresh") <= passed_s / 30 + 1
    assert far_end.journal.count("put") <= 2 * len(waits.asked_s) + 2
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


@pytest.mark.parametrize(
    "down",
    [faults.answer(503), faults.closed(reset=True), faults.captive_portal(), faults.answer(401), faults.answer(400)],
    ids=["503", "reset", "portal", "401", "400"],
)
def test_fault_24_working_ones_stay_in_use_while_the_refresh_is_down(home: Home, far_end: FarEnd, down: Fault) -> None:
    """The service says that they are about to expire; S3 knows better."""
    far_end.grants.claimed_lifetime_s = 0.01
    recorded = record(home.spool_dir, far_end, segments=30)
    far_end.always("refresh", down)
    waits = Waits()
    assert drain(recorded, far_end, waits) is Outcome.DELIVERED
    assert waits.asked_s == []
    assert far_end.journal.count("refresh") <= 1 + 30  # at most one in 30 s
    assert len({entry.access_key for entry in far_end.journal.requests("put")}) == 1
    recorded.judge(far_end)


def test_fault_24_refused_and_the_refresh_down_too_waits_and_recovers(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    far_end.fail_next("put", expire_all(far_end))
    far_end.always("refresh", faults.answer(503, retry_after=40))
    waits = Waits(at_most=5)
    outcome, causes = problems(recorded, far_end, waits)
    assert outcome is Outcome.WAITING
    assert causes[0] == "HTTP 503"
    assert waits.asked_s[0] >= 40
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


def test_fault_24_lifetime_of_three_seconds_is_no_busy_loop(home: Home, far_end: FarEnd, marker: str) -> None:
    far_end.credentials_lifetime_s = 3.0
    with Streamed(far_end, home, marker) as streamed:
        for number in range(4):
            streamed.append()
            streamed.wait_sent(number + 1, 60)
        refreshes, puts = far_end.journal.count("refresh"), far_end.journal.count("put", stored=True)
        assert streamed.stop()
        streamed.judge()
    assert puts == 4
    assert 1 <= refreshes <= 2 * puts  # asked for when something is to be sent, not in between


# -- 25: the token -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register", "refresh", "finish"])
@pytest.mark.parametrize("status", [401, 403])
def test_fault_25_refused_token_is_asked_again_every_five_minutes_and_a_new_one_works(
    home: Home, far_end: FarEnd, kind: str, status: int
) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    if kind == "refresh":
        with far_end.always("put", faults.answer(503)):
            assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.WAITING
    far_end.always(kind, faults.answer(status))
    waits = Waits(at_most=4)
    outcome, causes = problems(recorded, far_end, waits)
    assert outcome is Outcome.WAITING
    assert set(causes) == {"token refused"}
    assert waits.asked_s == [300] * 5
    assert far_end.journal.count(kind) == 5
    run = recorded.run()
    assert run.parked is None
    assert run.state is RunState.ENDED
    assert "SENTINEL_API_TOKEN" in (run.problem or "")
    far_end.clear()
    far_end.rotate_token()
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
    secret(far_end.secrets(), directories=[home.path])


def test_fault_25_token_revoked_while_the_uploader_runs_is_said_once_and_not_hammered(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    far_end.revoke_token()
    with Streamed(far_end, home, marker, stop_timeout=3) as streamed:
        streamed.append()
        streamed.wait_for_cause("token refused")
        for _ in range(3):
            streamed.append()
        assert streamed.manager.is_alive
        assert far_end.journal.count() == 1
        assert streamed.stop() == {}
        assert far_end.journal.count() <= 3  # the end of the run is worth another try
        assert streamed.log().count("the service refuses the token") == 1
        processes.kill_marked(marker)
        recorded = streamed.recorded
    far_end.accept_token("canary-api-token-of-tomorrow", only=True)
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
    secret(far_end.secrets(), directories=[home.path])


def test_fault_25_token_revoked_after_registering_lets_working_keys_deliver_the_rows(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    with Streamed(far_end, home, marker, stop_timeout=5) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        far_end.revoke_token()
        streamed.append()
        streamed.wait_sent(2)
        assert streamed.stop() == {}
        streamed.wait_for_cause("token refused")
        assert far_end.run().finish is None
        processes.kill_marked(marker)
        recorded = streamed.recorded
    far_end.rotate_token()
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
