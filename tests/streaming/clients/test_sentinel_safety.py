"""The door to the Sentinel API: where the token may go, and that every request ends."""

import base64
import gzip
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from streaming.clients import sentinel
from streaming.clients.sentinel import SentinelApi
from streaming.errors import BadArgument, NotTheService, Refused, Unauthorized, Unreachable
from tests.streaming.clients.doors import FINISH, refusal_of, register
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.processes import Home

pytestmark = pytest.mark.usefixtures("home")


# -- where the token may go --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(api: SentinelApi, far_end: FarEnd, status: int) -> None:
    with FarEnd() as elsewhere:
        far_end.always("register", faults.redirect(elsewhere.api_url + "/runs", status))
        with pytest.raises(NotTheService, match="redirect"):
            register(api)
        assert elsewhere.journal.count() == 0


def test_echoed_token_is_in_no_message(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "finish", faults.answer(422, json.dumps({"detail": f"bad {far_end.token}"})))
    assert isinstance(met, Refused)
    assert far_end.token not in met.answer
    assert "[token]" in met.answer
    run_id = register(api)
    with far_end.always("finish", faults.json_answer(200, {"you": far_end.token})):
        assert api.finish(run_id, FINISH) == {"you": "[token]"}


@pytest.mark.parametrize("token", ["tok", "token", "run", "s3", "id", "detail", "body", "a"])
def test_token_that_is_a_part_of_the_answers_words_changes_nothing(home: Home, token: str) -> None:
    with FarEnd(token=token) as far_end:
        api = SentinelApi(token, base_url=far_end.api_url)
        far_end.service.forbidden_keys = {"team"}
        registration, _ = api.register({"team": "y", "job_name": "x"}, idempotency_key="spool-1")
        assert registration.upload_uri_prefix == far_end.run().upload_uri_prefix
        assert api.refresh(registration.run_id).access_key == far_end.grants.all()[-1].access_key
        assert api.finish(registration.run_id, FINISH)["cpu_usage_mean"] == 0.5
        api.reset()


@pytest.mark.parametrize("field", ["run_id", "upload_uri_prefix"])
def test_token_never_becomes_a_part_of_what_is_kept(api: SentinelApi, far_end: FarEnd, field: str) -> None:
    far_end.always("register", faults.with_fields(**{field: f"s3://bucket/{far_end.token}"}))
    with pytest.raises(NotTheService, match="holds the token"):
        register(api)


@pytest.mark.parametrize("body", [b"", b"{}", b"  "])
def test_finish_without_an_answers_body_is_an_answer(api: SentinelApi, far_end: FarEnd, body: bytes) -> None:
    run_id = register(api)
    with far_end.always("finish", faults.not_json(body)):
        assert api.finish(run_id, FINISH) == {}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("kind", ["register", "refresh", "finish"])
def test_proxys_own_refusal_is_an_outage_and_no_refused_token(
    api: SentinelApi, far_end: FarEnd, kind: str, status: int
) -> None:
    page = faults.answer(status, b"<html>Blocked by policy</html>", headers={"Content-Type": "text/html"})
    met = refusal_of(api, far_end, kind, page)
    assert isinstance(met, NotTheService)
    assert met.cause == "proxy"
    assert "NO_PROXY" in met.hint


def test_bearer_challenge_without_a_body_is_a_refused_token(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "register", faults.answer(401, b"", headers={"WWW-Authenticate": "Bearer"}))
    assert isinstance(met, Unauthorized)


def test_servers_reason_for_being_busy_is_told(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "register", faults.json_answer(503, {"detail": "The store has no STS."}))
    assert "The store has no STS." in met.message


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example",
        "http://10.0.0.1",
        "http://127.evil.example.com",
        "http://127.0.0.1.evil.example",
        "http://127.a.b.c",
        "http://127.0.0.1@evil.example",
        "http://localhost.evil.example",
        "https://user:password@api.example",
        "https://",
        "https://api.example/?x=1",
        "https://api.example/#x",
        "http://[::1",
        "https://api.example:99999",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "127.0.0.1:80",
        "https://api.example/\nx",
        "",
    ],
)
def test_unsafe_url_is_refused(url: str) -> None:
    with pytest.raises(BadArgument, match="cannot be used"):
        SentinelApi("token", base_url=url)


@pytest.mark.parametrize(
    "url",
    ["https://api.example", "https://api.example/v1/", "http://127.0.0.1:1", "http://localhost", "http://[::1]:8"],
)
def test_safe_url_is_taken(url: str) -> None:
    SentinelApi("token", base_url=url).reset()


@pytest.mark.parametrize("token", ["“quoted”", "tök", "a\nb", "a\r\nHost: evil", "\x00"])
def test_token_that_cannot_be_one_is_refused(token: str) -> None:
    with pytest.raises(BadArgument, match="token"):
        SentinelApi(token, base_url="http://127.0.0.1:1")


def test_unknown_authority_is_refused_and_a_trusted_one_is_not(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with FarEnd(tls=True) as far_end:
        api = SentinelApi(far_end.token, base_url=far_end.api_url)
        with pytest.raises(Unreachable) as caught:
            register(api)
        assert caught.value.cause == "TLS"
        assert far_end.journal.count() == 0
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(far_end.ca_file))
        assert register(api)
        api.reset()


@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        ({"certificate_host": "other.example"}, "TLS"),
        ({"certificate_expired": True}, "TLS: certificate out of date, or this clock wrong"),
    ],
)
def test_bad_certificate_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, certificate: dict[str, Any], cause: str
) -> None:
    with FarEnd(tls=True, **certificate) as far_end:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(far_end.ca_file))
        api = SentinelApi(far_end.token, base_url=far_end.api_url)
        with pytest.raises(Unreachable) as caught:
            register(api)
        assert caught.value.cause == cause
        assert far_end.journal.count() == 0
        api.reset()


def test_port_where_nobody_listens_is_not_even_tried(home: Home) -> None:
    """Whoever opens and shuts the port in turns would be met by chance."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        tried: list[object] = []
        sys.addaudithook(lambda event, about: tried.append(about[1]) if event == "socket.connect" else None)
        api = SentinelApi("a-token-of-some-length", base_url=f"http://127.0.0.1:{port}")
        with pytest.raises(Unreachable) as caught:
            register(api)
        assert caught.value.cause == "refused"
        assert ("127.0.0.1", port) not in tried
        api.reset()


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [faults.silent(), faults.trickle(interval_s=0.05), faults.trickle(interval_s=0.05, body_only=True)],
    ids=["silent", "trickle", "trickling body"],
)
def test_every_request_has_a_deadline(far_end: FarEnd, fault: Fault) -> None:
    api = SentinelApi(far_end.token, base_url=far_end.api_url, deadline_s=0.5, read_timeout_s=5)
    far_end.always("register", fault)
    with pytest.raises(Unreachable) as caught:
        register(api)
    assert caught.value.cause == "timeout"
    far_end.clear()
    assert register(api)
    api.reset()


def test_answer_that_ends_amid_its_body_is_a_lost_connection(api: SentinelApi, far_end: FarEnd) -> None:
    met = refusal_of(api, far_end, "register", faults.truncated(400))
    assert type(met) is Unreachable
    assert met.cause == "connection lost"


def test_after_an_outage_the_next_call_has_a_fresh_connection(api: SentinelApi, far_end: FarEnd) -> None:
    register(api)
    far_end.reset_connections()
    far_end.down()
    with pytest.raises(Unreachable):
        register(api)
    far_end.up()
    assert register(api)


def test_compressed_answer_is_not_unpacked(api: SentinelApi, far_end: FarEnd) -> None:
    bomb = gzip.compress(b"{" + b" " * (64 << 20) + b"}")
    far_end.always("register", faults.answer(200, bomb, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(NotTheService, match="compressed"):
        register(api)


def test_debug_log_shows_no_token(api: SentinelApi, far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        api.finish(register(api), FINISH)
    for form in (far_end.token, base64.b64encode(far_end.token.encode()).decode()):
        assert form not in caplog.text


def test_limits_are_as_documented() -> None:
    assert sentinel.REQUEST_DEADLINE_S <= 60
    assert sentinel.ANSWER_MAX_BYTES == 4 << 20
    assert Path(sentinel.__file__).name == "sentinel.py"
