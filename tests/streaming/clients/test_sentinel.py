"""The door to the Sentinel API: what is sent, what is believed, and which error each answer becomes."""

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from streaming.clients.sentinel import SentinelApi
from streaming.errors import (
    AlreadyFinished,
    Busy,
    NotTheService,
    Refused,
    RunUnknown,
    Transient,
    Unauthorized,
    Unreachable,
)
from tests.streaming.clients.doors import FINISH, refusal_of, register
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.processes import Home

pytestmark = pytest.mark.usefixtures("home")


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_register_sends_token_key_and_exactly_the_payload(api: SentinelApi, far_end: FarEnd) -> None:
    registration, credentials = api.register({"job_name": "x", "tags": {"a": "b"}}, idempotency_key="spool-1")
    (entry,) = far_end.journal.requests("register")
    assert entry.headers["authorization"] == f"Bearer {far_end.token}"
    assert entry.headers["idempotency-key"] == "spool-1"
    assert entry.headers["accept-encoding"] == "identity"
    assert entry.payload == {"job_name": "x", "tags": {"a": "b"}}
    assert registration.upload_uri_prefix == far_end.run().upload_uri_prefix
    assert credentials.lifetime_s == pytest.approx(3600, abs=5)


def test_base_url_keeps_its_path(home: Home) -> None:
    with FarEnd(api_path="/sentinel/v1") as far_end:
        api = SentinelApi(far_end.token, base_url=far_end.api_url + "/")
        run_id = register(api)
        api.refresh(run_id)
        api.finish(run_id, FINISH)
        api.reset()
        paths = [entry.path for entry in far_end.journal.requests()]
    assert paths[0] == "/sentinel/v1/runs"
    assert all(path.startswith("/sentinel/v1/runs/") for path in paths[1:])


def test_refresh_has_no_body(api: SentinelApi, far_end: FarEnd) -> None:
    first = api.refresh(register(api))
    (entry,) = far_end.journal.requests("refresh")
    assert entry.body_bytes == 0
    assert first.access_key == far_end.grants.all()[-1].access_key


def test_small_finish_goes_plain_and_large_goes_compressed(api: SentinelApi, far_end: FarEnd) -> None:
    run_id = register(api)
    answer = api.finish(run_id, FINISH)
    assert answer["cpu_usage_mean"] == 0.5
    large = {**FINISH, "data_csv": "timestamp\n" + "1\n" * 60_000}
    with pytest.raises(AlreadyFinished):
        api.finish(run_id, large)
    small_one, large_one = far_end.journal.requests("finish")
    assert "content-encoding" not in small_one.headers
    assert large_one.headers["content-encoding"] == "gzip"
    assert large_one.body_bytes is not None
    assert large_one.body_bytes < len(json.dumps(large)) / 10


@pytest.mark.parametrize("status", [400, 415, 422])
def test_refused_compressed_finish_goes_plain_once(api: SentinelApi, far_end: FarEnd, status: int) -> None:
    run_id = register(api)
    far_end.fail_next("finish", faults.answer(status, b"<html>what is this?</html>"))
    large = {**FINISH, "data_csv": "timestamp\n" + "1\n" * 60_000}
    api.finish(run_id, large)
    first, second = far_end.journal.requests("finish")
    assert (first.headers.get("content-encoding"), second.headers.get("content-encoding")) == ("gzip", None)
    assert far_end.run().finish == large


def test_keys_that_the_service_refuses_are_dropped_and_the_run_is_registered(
    api: SentinelApi, far_end: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    far_end.service.forbidden_keys = {"team"}
    far_end.service.complaints = {"container_image": "string_too_long"}
    register(api, job_name="x", team="y", pid=7, container_image="i" * 9000, env=["prod"])
    assert far_end.run().metadata == {"job_name": "x"}
    assert "register.keys_dropped: the service does not take container_image, env, pid, team" in caplog.text
    assert far_end.journal.count("register") == 2


def test_service_that_names_one_key_at_a_time_is_asked_until_it_takes_the_run(
    api: SentinelApi, far_end: FarEnd
) -> None:
    for key in ("team", "env"):
        far_end.fail_next("register", faults.json_answer(422, complaint(key)))
    register(api, job_name="x", team="y", env="z")
    assert far_end.run().metadata == {"job_name": "x"}


def complaint(*place: str) -> dict[str, Any]:
    return {"detail": [{"type": "enum", "loc": ["body", *place], "msg": "Input should be one of a list"}]}


@pytest.mark.parametrize(
    ("given", "shape", "registered"),
    [
        ({"a": "b", "n": 3}, dict, {"a": "b", "n": 3}),
        ({"a": "b", "n": 3}, list, ["a=b", "n=3"]),
        (["a=b", "c=d=e"], dict, {"a": "b", "c": "d=e"}),
        (["a", "b"], dict, None),
    ],
)
def test_tags_go_in_the_shape_that_the_service_takes(
    api: SentinelApi, far_end: FarEnd, given: Any, shape: type, registered: Any
) -> None:
    far_end.service.tags_shape = shape
    register(api, job_name="x", tags=given)
    assert far_end.run().metadata.get("tags") == registered
    assert far_end.run().metadata["job_name"] == "x"


def test_tags_that_no_shape_saves_are_dropped_and_nothing_else(api: SentinelApi, far_end: FarEnd) -> None:
    far_end.service.complaints = {"tags": "too_long"}
    register(api, job_name="x", tags={"a": "b"})
    assert far_end.run().metadata == {"job_name": "x"}
    assert [entry.payload and entry.payload.get("tags") for entry in far_end.journal.requests("register")] == [
        {"a": "b"},
        ["a=b"],
        None,
    ]


def test_forbidden_keys_that_were_not_sent_are_a_refusal(api: SentinelApi, far_end: FarEnd) -> None:
    far_end.always("register", faults.forbidden_keys("other"))
    with pytest.raises(Refused):
        register(api, job_name="x")
    assert far_end.journal.count("register") == 1


def test_password_of_netrc_does_not_replace_the_token(api: SentinelApi, far_end: FarEnd, home: Home) -> None:
    (home.path / ".netrc").write_text("default login me password secret\n")
    register(api)
    assert far_end.journal.requests("register")[0].headers["authorization"] == f"Bearer {far_end.token}"


def test_proxy_of_the_environment_never_sees_plain_http(
    far_end: FarEnd, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FarEnd() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.api_url)
        api = SentinelApi(far_end.token, base_url=far_end.api_url)
        register(api)
        api.reset()
        assert proxy.journal.count() == 0


# -- what is believed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["expires_at", "expiration"])
def test_lifetime_is_measured_by_the_servers_clock(api: SentinelApi, far_end: FarEnd, field: str) -> None:
    far_end.clock_skew_s = -5 * 3600.0
    far_end.grants.expiry_field = field
    far_end.grants.lifetime_s = 900
    assert api.refresh(register(api)).lifetime_s == pytest.approx(900, abs=5)


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-45", ""])
def test_unreadable_expiry_is_left_to_s3(api: SentinelApi, far_end: FarEnd, text: str) -> None:
    far_end.grants.expiry_text = text or None
    far_end.grants.expiry_field = "expires_at" if text else None
    assert api.refresh(register(api)).lifetime_s is None


def test_naive_expiry_is_utc(api: SentinelApi, far_end: FarEnd) -> None:
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    far_end.grants.expiry_text = now.replace(year=now.year + 1).isoformat()
    assert (api.refresh(register(api)).lifetime_s or 0) > 86_400 * 300


def test_store_without_sts_has_keys_without_a_session_token(api: SentinelApi, far_end: FarEnd) -> None:
    far_end.always("refresh", faults.edited(lambda body: body["upload_credentials"].update(session_token="")))
    assert api.refresh(register(api)).session_token == ""


def test_region_of_the_credentials_is_taken(api: SentinelApi, far_end: FarEnd) -> None:
    far_end.grants.region = "eu-central-2"
    assert api.refresh(register(api)).region == "eu-central-2"


@pytest.mark.parametrize(
    "fault",
    [
        faults.captive_portal(),
        faults.pretended(204),
        faults.not_json(),
        faults.not_json(b"[1]"),
        faults.not_json(b"[" * 100_000),
        faults.not_json(b'{"a":' * 100_000),
        faults.without("run_id"),
        faults.without("upload_uri_prefix"),
        faults.without("upload_credentials"),
        faults.without("upload_credentials.session_token"),
        faults.with_fields(run_id=7),
        faults.with_fields(run_id="../../admin\x1b[2J"),
        faults.with_fields(run_id=".."),
        faults.with_fields(upload_uri_prefix="file:///etc"),
        faults.with_fields(upload_uri_prefix="s3://bucket/../x"),
        faults.with_fields(upload_uri_prefix="s3://bucket/a\nb"),
        faults.with_fields(upload_credentials="none"),
        faults.with_headers(content_encoding="gzip"),
        faults.oversize(5),
        faults.oversize(5, declares_length=False),
    ],
    ids=lambda fault: fault.name,
)
def test_answer_of_another_shape_is_an_outage(api: SentinelApi, far_end: FarEnd, fault: Fault) -> None:
    assert isinstance(refusal_of(api, far_end, "register", fault), NotTheService)


def test_odd_region_is_an_outage(api: SentinelApi, far_end: FarEnd) -> None:
    run_id = register(api)
    far_end.grants.region = "evil.example/#"
    with pytest.raises(NotTheService):
        api.refresh(run_id)


def test_token_echoed_as_a_region_is_in_no_message(api: SentinelApi, far_end: FarEnd) -> None:
    run_id = register(api)
    far_end.grants.region = f"/{far_end.token}"
    with pytest.raises(NotTheService) as caught:
        api.refresh(run_id)
    assert far_end.token not in str(caught.value)


def test_answer_in_the_limit_is_read_whole(api: SentinelApi, far_end: FarEnd) -> None:
    run_id = register(api)
    with far_end.always("finish", faults.oversize(4)):
        assert api.finish(run_id, FINISH) == {}


# -- which error each answer becomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register", "refresh", "finish"])
@pytest.mark.parametrize(
    ("fault", "error", "cause"),
    [
        (faults.answer(500), Busy, "HTTP 500"),
        (faults.answer(503), Busy, "HTTP 503"),
        (faults.answer(429), Busy, "HTTP 429"),
        (faults.answer(408), Busy, "HTTP 408"),
        (faults.captive_portal(), NotTheService, "captive portal"),
        (faults.captive_portal(511), Busy, "captive portal"),
        (faults.answer(404, b"<html>nginx</html>"), NotTheService, "captive portal"),
        (faults.answer(407, b"<html>proxy</html>"), Busy, "HTTP 407"),
        (faults.answer(423), Busy, "HTTP 423"),
        (faults.answer(425), Busy, "HTTP 425"),
        (faults.closed(), Unreachable, "connection lost"),
        (faults.closed(reset=True), Unreachable, "connection lost"),
        (faults.truncated(30), NotTheService, "captive portal"),  # http.client takes it for a whole, bare answer
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_outage_is_transient_and_its_cause_named(
    api: SentinelApi, far_end: FarEnd, kind: str, fault: Fault, error: type[Transient], cause: str
) -> None:
    met = refusal_of(api, far_end, kind, fault)
    assert type(met) is error
    assert met.cause == cause


@pytest.mark.parametrize("kind", ["register", "refresh", "finish"])
@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_names_the_remedy(api: SentinelApi, far_end: FarEnd, kind: str, status: int) -> None:
    met = refusal_of(api, far_end, kind, faults.answer(status))
    assert type(met) is Unauthorized
    assert "SENTINEL_API_TOKEN" in met.hint


@pytest.mark.parametrize("status", [404, 410])
def test_unknown_run_is_told_by_refresh_and_finish(api: SentinelApi, far_end: FarEnd, status: int) -> None:
    for kind in ("refresh", "finish"):
        met = refusal_of(api, far_end, kind, faults.answer(status))
        assert type(met) is RunUnknown
        assert met.status == status


def test_unknown_address_of_register_is_an_outage_that_names_the_setting(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "register", faults.answer(404))
    assert type(met) is NotTheService
    assert "SENTINEL_API_URL" in met.hint


def test_registration_under_way_is_waited_for(api: SentinelApi, far_end: FarEnd) -> None:
    """409: the first request with this idempotency key, whose reply was lost, is not done yet."""
    assert isinstance(refusal_of(api, far_end, "register", faults.answer(409)), Busy)


@pytest.mark.parametrize("status", [400, 409, 422])
def test_refused_refresh_is_an_outage(api: SentinelApi, far_end: FarEnd, status: int) -> None:
    assert isinstance(refusal_of(api, far_end, "refresh", faults.answer(status)), Busy)


def test_conflict_at_finish_is_already_finished(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "finish", faults.answer(409))
    assert type(met) is AlreadyFinished
    assert isinstance(refusal_of(api, far_end, "finish", faults.answer(409, b"<html>")), NotTheService)


def test_refusal_keeps_the_answer_for_people(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "finish", faults.answer(422, json.dumps({"detail": "no \x1b[31m rows"})))
    assert type(met) is Refused
    assert met.status == 422
    assert "no " in met.message


@pytest.mark.parametrize(
    ("given", "asked_s"), [("120", 120.0), ("nonsense", None), (None, None), (10**12, 100_000_000.0)]
)
def test_retry_after_is_read(api: SentinelApi, far_end: FarEnd, given: Any, asked_s: float | None) -> None:
    met = refusal_of(api, far_end, "finish", faults.answer(503, retry_after=given))
    assert isinstance(met, Busy)
    assert met.retry_after_s == asked_s


def test_retry_after_date_is_the_servers(api: SentinelApi, far_end: FarEnd) -> None:
    far_end.clock_skew_s = 3 * 3600.0
    met = refusal_of(api, far_end, "finish", faults.answer(503, retry_after=faults.http_date(3 * 3600 + 60)))
    assert isinstance(met, Busy)
    assert met.retry_after_s == pytest.approx(60, abs=5)
