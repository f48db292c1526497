"""Titles, notes, shared links and deletion: by the owner, and by everybody who should not."""

from __future__ import annotations

import gzip
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests

from streaming.server.storage import sessions
from tests.streaming.server.conftest import Service

CSV = b'"timestamp","process_cpu_usage"\n10.0,0.5\n'


def finished(service: Service, **metadata: Any) -> str:
    run = service.register(**metadata)
    uri = service.put(run, "00000001-000000000000.csv.gz", gzip.compress(CSV))
    body = {"data_source": "s3", "data_uris": [uri], "run_status": "finished"}
    assert service.post(f"/runs/{run['run_id']}/finish", body).ok
    return str(run["run_id"])


def changes_of(run_id: str) -> list[tuple[str, str, Any]]:
    return [
        ("PATCH", f"/runs/{run_id}", {"title": "taken"}),
        ("POST", f"/runs/{run_id}/share", {"hours": 1}),
        ("DELETE", f"/runs/{run_id}", None),
    ]


def guest(service: Service, path: str, secret: str, method: str = "GET") -> requests.Response:
    return requests.request(method, service.url + path, headers={"X-Share": secret}, timeout=60)


def shared(service: Service, run_id: str) -> str:
    page, _, secret = service.post(f"/runs/{run_id}/share", {}).json()["page"].partition("#")
    assert page == f"/shared/{run_id}"
    return str(secret)


def test_title_and_notes_are_shown_and_found_and_can_be_taken_away(service: Service) -> None:
    run_id = finished(service, job_name="train")
    for title in ("Best of all", "Größte", ""):
        edit = {"title": title, "notes": f"about {title}"}
        assert service.call("PATCH", f"/runs/{run_id}", json=edit).json()["notes"] == edit["notes"]
        assert service.get(f"/runs/{run_id}").json()["title"] == (title or None)
        for text, count in (("best of", title == "Best of all"), ("GRÖSS", title == "Größte"), ("train", True)):
            assert service.get(f"/runs?q={text}").json()["total"] == count, (title, text)
    assert service.get(f"/runs/{run_id}").json()["notes"] == "about "
    assert service.call("PATCH", f"/runs/{run_id}", json={"title": "a\nb"}).status_code == 422
    assert service.call("PATCH", f"/runs/{run_id}", json={"run_status": "failed"}).status_code == 422


def test_deleted_run_is_gone_with_its_objects_and_others_are_not(service: Service) -> None:
    run_id, other = finished(service, job_name="first"), finished(service, job_name="second")
    secret = shared(service, run_id)
    assert guest(service, f"/runs/{run_id}/csv", secret).content == CSV
    assert service.call("DELETE", f"/runs/{run_id}").status_code == 204
    assert list(service.app.state.objects.list(f"runs/{run_id}/")) == []
    assert not (Path(service.app.state.settings.directory) / "cache" / run_id).exists()
    assert service.get(f"/runs/{run_id}").status_code == 404
    assert guest(service, f"/runs/{run_id}", secret).status_code == 404, "a link that is used again"
    assert service.call("DELETE", f"/runs/{run_id}").status_code == 404
    assert service.get("/runs?q=first").json()["total"] == 0
    assert service.get(f"/runs/{other}/csv").content == CSV
    assert [line["run_id"] for line in service.get("/runs?q=second").json()["runs"]] == [other]


def test_run_that_goes_on_is_not_deleted(service: Service) -> None:
    run = service.register()
    assert service.call("DELETE", f"/runs/{run['run_id']}").status_code == 409
    assert service.get(f"/runs/{run['run_id']}").ok


def test_another_tenant_changes_nothing(service: Service) -> None:
    run_id = finished(service)
    other = service.app.state.tokens.add("other")
    for method, path, body in changes_of(run_id):
        assert service.call(method, path, json=body, token=other).status_code == 404
    assert service.get(f"/runs/{run_id}").json()["title"] is None


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://HOST", "http://HOST.evil"]
)
def test_another_sites_page_changes_nothing_with_the_sessions_cookie(service: Service, origin: str | None) -> None:
    run_id = finished(service)
    host = service.url.removeprefix("http://")
    own = {"Origin": service.url}
    assert service.http.post(f"{service.url}/session", json={"token": service.token}, headers=own, timeout=60).ok
    is_ours = origin is not None and origin.endswith("HOST")  # TLS may end before us: the name counts
    headers = {} if origin is None else {"Origin": origin.replace("HOST", host)}
    for method, path, body in changes_of(run_id):
        answer = service.http.request(method, service.url + path, json=body, headers=headers, timeout=60)
        assert answer.ok if is_ours else answer.status_code == 403, (method, answer.text)
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        data = b'{"title": "taken"}'
        headers = {**own, "Content-Type": content_type}
        answer = service.http.patch(f"{service.url}/runs/{run_id}", data=data, headers=headers, timeout=60)
        assert answer.status_code in (404, 415)
    assert service.get(f"/runs/{run_id}").status_code == (404 if is_ours else 200)


def test_link_shows_one_run_and_nothing_else(service: Service) -> None:
    run_id, other = finished(service, job_name="shown"), finished(service, job_name="hidden")
    secret = shared(service, run_id)
    assert guest(service, f"/runs/{run_id}", secret).json()["job_name"] == "shown"
    assert guest(service, f"/runs/{run_id}/series?columns=process_cpu_usage", secret).ok
    assert guest(service, f"/runs/{run_id}/objects", secret).ok
    for path in (
        f"/runs/{other}",
        f"/runs/{other}/csv",
        f"/runs/{other}?run_id={run_id}",
        "/runs",
        "/jobs?id=1",
        "/session",
    ):
        assert guest(service, path, secret).status_code == 401, path
    for wrong in ("", "x", secret[:-1], secret + "x", f"{secret}\xe9", "y" * 5000):
        assert guest(service, f"/runs/{run_id}", wrong).status_code in (401, 431), wrong
    for method, path, _ in changes_of(run_id):
        assert guest(service, path, secret, method).status_code in (401, 403), method
    for name in (service.app.state.cookie, "x-share"):
        assert requests.get(f"{service.url}/runs/{run_id}", cookies={name: secret}, timeout=60).status_code == 401
    bearer = {"Authorization": f"Bearer {secret}"}
    assert requests.get(f"{service.url}/runs/{run_id}", headers=bearer, timeout=60).status_code == 401
    answer = requests.post(f"{service.url}/session", json={"ticket": secret}, timeout=60)
    assert answer.status_code == 401, "it logs nobody in"


def test_link_ends_by_its_time_and_with_its_token(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = finished(service)
    secret = shared(service, run_id)

    class Later(datetime):
        @classmethod
        def now(cls, _: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(timezone.utc) + timedelta(days=7, seconds=1)

    with monkeypatch.context() as later:
        later.setattr(sessions, "datetime", Later)
        assert guest(service, f"/runs/{run_id}", secret).status_code == 401
    assert guest(service, f"/runs/{run_id}", secret).ok
    service.app.state.tokens.revoke("tester")
    assert guest(service, f"/runs/{run_id}", secret).status_code == 401
    service.app.state.tokens.add("tester")
    assert guest(service, f"/runs/{run_id}", secret).status_code == 401
