"""Faults 18 to 21: answers that are no answer, replies that get lost, keys that are taken, and "not now"."""

import hashlib
from collections.abc import Callable

import pytest

from streaming.upload.model import Outcome
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.processes import Home
from tests.support.recorded import Waits, drain, problems, record
from tests.support.secrecy import secret
from tests.support.streamed import Streamed

PORTALS = [
    faults.captive_portal(),
    faults.pretended(200),
    faults.pretended(200, {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}),
    faults.pretended(204),
    faults.captive_portal(511),
]


# -- 18: a captive portal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register", "refresh", "put", "finish"])
def test_fault_18_captive_portal_is_an_outage_at_every_door(home: Home, far_end: FarEnd, kind: str) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    if kind == "refresh":
        assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
        recorded = record(home.spool_dir, far_end, segments=2)
    with FarEnd() as elsewhere:
        portals = [portal for portal in PORTALS if kind != "finish" or not is_bare_200(portal)]
        portals += [faults.redirect(elsewhere.api_url, status) for status in (301, 302, 303, 307, 308)]
        for portal in portals:
            far_end.fail_next(kind, portal)
        objects = len(far_end.objects)
        waits = Waits(then=lambda _count: _nothing_believed(far_end, objects) if kind == "put" else None)
        assert drain(recorded, far_end, waits) is Outcome.DELIVERED
        assert elsewhere.journal.count() == 0
    if kind != "refresh":  # with fresh credentials at hand, none are asked for
        assert len(waits.asked_s) == len(portals)
    assert all(asked_s <= min(60, 2 ** (number + 1)) for number, asked_s in enumerate(waits.asked_s))
    for run in far_end.runs:
        assert run.finish is not None
    secret(far_end.secrets(), directories=[home.path])


def is_bare_200(fault: faults.Fault) -> bool:
    """To a finish, the service's own answer may be as bare as this."""
    return fault.answer is not None and fault.answer.status == 200 and not fault.answer.body


def _nothing_believed(far_end: FarEnd, object_count: int) -> None:
    assert len(far_end.objects) == object_count
    assert all(run.finish is None for run in far_end.runs)


def test_fault_18_captive_portal_marks_nothing_sent_and_the_uploader_goes_on(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    with FarEnd() as elsewhere, Streamed(far_end, home, marker) as streamed:
        portal = far_end.always("any", faults.captive_portal())
        streamed.append()
        streamed.wait_for_cause("captive portal")
        assert streamed.manager.run_id is None
        portal.clear()
        for fault in (faults.redirect(elsewhere.s3_endpoint_url), *PORTALS[1:4]):
            far_end.fail_next("put", fault)
        far_end.journal.wait_for_count("put", 2, 40)
        assert streamed.manager.uploaded_uris == []
        assert far_end.objects == {}
        streamed.append()
        assert streamed.stop()["run_id"] == streamed.manager.run_id
        streamed.judge()
        assert elsewhere.journal.count() == 0
        assert len(far_end.journal.intervals_s("put")) >= 4


# -- 19: the reply is lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_fault_19_lost_reply_is_one_object_marked_sent(home: Home, far_end: FarEnd, marker: str, reset: bool) -> None:
    with Streamed(far_end, home, marker) as streamed:
        far_end.fail_next("put", faults.reply_lost(reset=reset), times=2)
        streamed.append()
        streamed.wait_sent(1)
        (uri,) = streamed.manager.uploaded_uris
        assert list(far_end.objects) == [uri]
        assert len(set(far_end.store.history[uri])) == 1
        answered = [(entry.stored, entry.status) for entry in far_end.journal.requests("put")]
        assert "upload.already_there" not in streamed.log()  # it was ours, and no cause for alarm
        assert answered == [(True, None), (False, None), (False, 412), (True, 200)]  # only a proof is believed
        streamed.append()
        streamed.stop()
        streamed.judge()


# -- 20: the key is taken ----------------------------------------------------------------------------------------------


def test_fault_20_taken_key_is_written_again_and_told(home: Home, far_end: FarEnd, marker: str) -> None:
    """The same key means the same rows, and the prefix is ours alone: what else lies there is replaced, loudly."""
    with Streamed(far_end, home, marker) as streamed:
        far_end.fail_next("put", faults.occupied())
        streamed.append()
        streamed.wait_sent(1)
        (uri,) = streamed.manager.uploaded_uris
        assert f"upload.already_there: {uri}" in streamed.log()
        first, second = far_end.journal.requests("put")
        assert (first.status, second.status) == (412, 200)
        assert "if-none-match" not in second.headers
        streamed.stop()
        streamed.judge()


@pytest.mark.parametrize(
    ("refusal", "cause"),
    [
        (faults.s3_error("PreconditionFailed", 412), "PreconditionFailed"),
        (faults.s3_error("AccessDenied"), "credentials refused"),
        (faults.answer(409), "HTTP 409"),
        (faults.captive_portal(), "captive portal or broken store"),
        (faults.reply_lost(), "connection lost"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_fault_20_taken_key_that_cannot_be_written_is_never_success(
    home: Home, far_end: FarEnd, refusal: Fault, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = record(home.spool_dir, far_end)
    far_end.always("put", faults.occupied(), matching=lambda head: "if-none-match" in head.headers)
    far_end.always("put", refusal)
    outcome, causes = problems(recorded, far_end, Waits(at_most=2))
    assert outcome is Outcome.WAITING
    assert set(causes) == {cause}
    assert far_end.run().finish is None
    assert "upload.already_there" in caplog.text
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


@pytest.mark.parametrize("fault", [faults.answer(501), faults.s3_error("NotImplemented", 501)], ids=["501", "code"])
def test_fault_20_store_without_conditions_is_served_too(home: Home, far_end: FarEnd, fault: Fault) -> None:
    far_end.store.knows_if_none_match = False
    recorded = record(home.spool_dir, far_end, segments=3)
    far_end.fail_next("put", fault)
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
    assert far_end.journal.count("put") == 4


def test_fault_20_lost_reply_then_taken_key_is_proved_by_the_same_bytes(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end)
    far_end.fail_next("put", faults.reply_lost())
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)
    assert [entry.status for entry in far_end.journal.requests("put")] == [None, 412, 200]
    (digests,) = far_end.store.history.values()
    assert digests == [hashlib.sha256(*far_end.objects.values()).hexdigest()] * 2


# -- 21: not now -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register", "put", "finish"])
@pytest.mark.parametrize(
    ("asked", "least_s"),
    [
        ("120", 120),
        (lambda: faults.http_date(5 * 3600 + 90), 85),
        ("99999999", 900),
        (lambda: faults.http_date(1e6), 900),
        *((garbage, 0) for garbage in ("soon", "-5", "", None)),
    ],
    ids=["seconds", "date", "huge", "huge date", "garbage", "negative", "empty", "none"],
)
def test_fault_21_retry_after_is_honoured_capped_and_jittered(
    home: Home, far_end: FarEnd, kind: str, asked: "str | Callable[[], str] | None", least_s: float
) -> None:
    """Dates are the far end's, whose clock is five hours ahead of ours; S3 sees no skew in this test."""
    recorded = record(home.spool_dir, far_end, segments=1)
    for status in (503, 429):
        date, retry_after = {"Date": faults.http_date(5 * 3600)}, asked() if callable(asked) else asked
        far_end.fail_next(kind, faults.answer(status, retry_after=retry_after, headers=date if asked else None))
    waits = Waits()
    assert drain(recorded, far_end, waits) is Outcome.DELIVERED
    recorded.judge(far_end)
    first_s, second_s = waits.asked_s
    assert least_s <= first_s <= least_s + 35
    assert least_s <= second_s <= least_s + 35
    assert first_s != second_s


@pytest.mark.parametrize("status", [409, 500, 502, 503, 504, 429])
def test_fault_21_every_not_now_of_s3_is_retried_and_nothing_parked(home: Home, far_end: FarEnd, status: int) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    far_end.always("put", faults.answer(status))
    outcome, causes = problems(recorded, far_end, Waits(at_most=12))
    assert outcome is Outcome.WAITING
    assert set(causes) == {f"HTTP {status}"}
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


def test_fault_21_huge_retry_after_is_cut_short_by_stop(home: Home, far_end: FarEnd, marker: str) -> None:
    with Streamed(far_end, home, marker) as streamed:
        busy = far_end.always("put", faults.answer(503, retry_after=10**9))
        streamed.append()
        far_end.journal.wait_for_count("put", 1, 40)
        streamed.wait_for_cause("HTTP 503")
        busy.clear()
        streamed.append()
        assert streamed.stop()
        streamed.judge()
