"""A browser's login, and the headers that protect it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests

from streaming.server.storage import sessions
from streaming.server.storage.database import ServerDatabase
from tests.streaming.server.conftest import Service


@pytest.fixture
def browser(service: Service) -> requests.Session:
    """Sends cookies, and no bearer token."""
    return service.http


def log_in(service: Service, browser: requests.Session, token: str | None = None, **headers: str) -> requests.Response:
    return browser.post(service.url + "/session", json={"token": token or service.token}, headers=headers, timeout=60)


def test_a_token_becomes_a_session_that_reads(service: Service, browser: requests.Session) -> None:
    run_id = service.register()["run_id"]
    assert browser.get(service.url + "/runs", timeout=60).status_code == 401
    answer = log_in(service, browser)
    assert (answer.status_code, answer.json()) == (200, {"name": "tester"})
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert service.token not in cookie
    assert browser.get(service.url + "/session", timeout=60).json() == {"name": "tester"}
    assert browser.get(service.url + f"/runs/{run_id}", timeout=60).status_code == 200


def test_a_session_changes_nothing(service: Service, browser: requests.Session) -> None:
    log_in(service, browser)
    assert browser.post(service.url + "/runs", json={}, timeout=60).status_code == 401


def test_logging_out_ends_the_session(service: Service, browser: requests.Session) -> None:
    log_in(service, browser)
    secret = browser.cookies[service.app.state.cookie]
    assert browser.delete(service.url + "/session", timeout=60).status_code == 204
    answer = requests.get(service.url + "/runs", cookies={service.app.state.cookie: secret}, timeout=60)
    assert answer.status_code == 401


def test_a_revoked_token_ends_its_sessions_for_good(service: Service, browser: requests.Session) -> None:
    log_in(service, browser)
    service.app.state.tokens.revoke("tester")
    assert browser.get(service.url + "/runs", timeout=60).status_code == 401
    service.app.state.tokens.add("tester")
    assert browser.get(service.url + "/runs", timeout=60).status_code == 401


def test_a_session_ends_by_itself(service: Service, browser: requests.Session) -> None:
    log_in(service, browser)
    database = ServerDatabase(Path(service.app.state.settings.directory) / "server.db")
    (kept,) = database.rows("SELECT expires_at FROM sessions")
    left = datetime.fromisoformat(kept["expires_at"]) - datetime.now(timezone.utc)
    assert abs(left - sessions.LIFETIME) < timedelta(minutes=5)
    ended = datetime.now(timezone.utc) - timedelta(seconds=1)
    with database.transaction() as db:
        db.conn.execute("UPDATE sessions SET expires_at = ?", (ended.isoformat(timespec="microseconds"),))
    assert browser.get(service.url + "/runs", timeout=60).status_code == 401


def test_neither_token_nor_cookie_is_in_the_database(service: Service, browser: requests.Session) -> None:
    log_in(service, browser)
    content = (Path(service.app.state.settings.directory) / "server.db").read_bytes()
    assert browser.cookies[service.app.state.cookie].encode() not in content
    assert service.token.encode() not in content


def test_another_sites_page_can_neither_log_in_nor_out(service: Service, browser: requests.Session) -> None:
    assert log_in(service, browser, Origin="http://evil.example").status_code == 403
    assert log_in(service, browser, Origin=service.url).status_code == 200
    answer = browser.delete(service.url + "/session", headers={"Origin": "null"}, timeout=60)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"token": "wrong"}', {"Content-Type": "application/json"}, 401),
        (b'{"token": ""}', {"Content-Type": "application/json"}, 401),
        (b'{"token": 1}', {"Content-Type": "application/json"}, 422),
        (b'{"token": "a", "b": 1}', {"Content-Type": "application/json"}, 422),
        (b"{}", {"Content-Type": "application/json"}, 422),
        (b"token=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b" " * 300_000, {"Content-Type": "application/json"}, 413),
    ],
    ids=["wrong", "empty", "a number", "another key", "none", "a form", "too large"],
)
def test_a_bad_login_is_refused(
    service: Service, browser: requests.Session, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = browser.post(service.url + "/session", data=body, headers=headers, timeout=60)
    assert answer.status_code == status
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/runs", "/openapi.json", "/health", "/nope", "/session"])
def test_every_answer_has_the_security_headers(service: Service, path: str) -> None:
    headers = requests.get(service.url + path, timeout=60).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "server" not in headers


def test_the_description_names_every_call_and_that_bodies_are_closed(service: Service) -> None:
    api = requests.get(service.url + "/openapi.json", timeout=60).json()
    calls = {f"{method.upper()} {path}" for path, methods in api["paths"].items() for method in methods}
    assert calls > {"POST /runs", "POST /runs/{run_id}/finish", "GET /runs/{run_id}/series", "POST /session"}
    assert api["components"]["schemas"]["RunMetadata"]["additionalProperties"] is False
