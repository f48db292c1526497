"""The wire contract, and every bad input with its answer."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import requests

from tests.streaming.server.conftest import LIMITS, Service

CSV = '"timestamp","system_cpu_usage","process_memory_mib"\n10.0,0.5,100\n11.0,1.5,300\n'
JSON_TYPE = {"Content-Type": "application/json"}
GZIP_JSON = {**JSON_TYPE, "Content-Encoding": "gzip"}


def inline(**changes: Any) -> dict[str, Any]:
    return {"data_source": "inline", "data_csv": CSV, "run_status": "finished", "exit_code": 0, **changes}


def s3_body(*uris: str, **changes: Any) -> dict[str, Any]:
    return {"data_source": "s3", "data_uris": list(uris), "run_status": "finished", "exit_code": 0, **changes}


def test_register_answers_with_prefix_and_credentials(service: Service) -> None:
    answer = service.register(job_name="train", command='["python", "t.py"]', tags={"a": "b"}, host_vcpus=4)
    assert set(answer) == {"run_id", "page", "upload_uri_prefix", "upload_credentials"}
    assert answer["page"] == f"/run/{answer['run_id']}"
    assert answer["upload_uri_prefix"] == f"s3://rows/runs/{answer['run_id']}"
    credentials = answer["upload_credentials"]
    assert set(credentials) == {"access_key", "secret_key", "session_token", "expires_at", "region"}
    assert credentials["expires_at"].endswith("Z")


def test_a_registered_run_keeps_its_metadata(service: Service) -> None:
    run_id = service.register(job_name="train", tags=["a", "b"], team=None)["run_id"]
    assert service.app.state.runs.get(run_id).metadata == {"job_name": "train", "tags": ["a", "b"]}


def test_the_same_idempotency_key_is_the_same_run_with_fresh_credentials(service: Service) -> None:
    first = service.post("/runs", {"job_name": "a"}, headers={"Idempotency-Key": "k1"})
    again = service.post("/runs", {"job_name": "a"}, headers={"Idempotency-Key": "k1"})
    other = service.post("/runs", {"job_name": "a"}, headers={"Idempotency-Key": "k2"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert first.json()["run_id"] == again.json()["run_id"] != other.json()["run_id"]
    keys = [answer.json()["upload_credentials"]["access_key"] for answer in (first, again)]
    assert keys[0] != keys[1]


def test_the_same_key_of_another_token_is_another_run(service: Service) -> None:
    other = service.app.state.tokens.add("other")
    first = service.post("/runs", {}, headers={"Idempotency-Key": "k"})
    second = service.post("/runs", {}, token=other, headers={"Idempotency-Key": "k"})
    assert first.json()["run_id"] != second.json()["run_id"]


def test_runs_without_a_key_are_all_different(service: Service) -> None:
    assert service.register()["run_id"] != service.register()["run_id"]


def test_refresh_answers_with_credentials_only(service: Service) -> None:
    run_id = service.register()["run_id"]
    answer = service.post(f"/runs/{run_id}/refresh-credentials")
    assert answer.status_code == 200
    assert set(answer.json()) == {"upload_credentials"}


def test_inline_finish_answers_with_figures_from_its_rows(service: Service) -> None:
    run_id = service.register()["run_id"]
    answer = service.post(f"/runs/{run_id}/finish", inline(finished_at="2026-01-02T03:04:05Z"))
    assert answer.status_code == 200
    figures = answer.json()
    assert figures["row_count"] == 2
    assert figures["duration_s"] == 1.0
    assert figures["system_cpu_usage"] == {"average": 1.0, "peak": 1.5}
    assert figures["process_memory_mib"] == {"average": 200.0, "peak": 300.0}
    assert figures["complete"] is True
    run = service.app.state.runs.get(run_id)
    assert run.ended_at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert service.app.state.runs.inline_csv(run_id) == CSV.encode()


def test_finish_tells_where_the_run_is_shown(service: Service) -> None:
    run_id = service.register()["run_id"]
    page = service.post(f"/runs/{run_id}/finish", inline()).json()["page"]
    shown = requests.get(f"{service.url}{page}", timeout=30)
    assert (shown.status_code, page) == (200, f"/run/{run_id}")


def test_s3_finish_reads_the_objects(service: Service) -> None:
    run = service.register()
    uris = [service.put(run, name, gzip.compress(CSV.encode())) for name in ("00000001-ab.csv.gz", "000002.csv.gz")]
    answer = service.post(f"/runs/{run['run_id']}/finish", s3_body(*uris, run_status="failed", exit_code=137))
    assert answer.status_code == 200
    assert (answer.json()["row_count"], answer.json()["complete"]) == (4, True)
    kept = service.app.state.runs.get(run["run_id"])
    assert (kept.data_uris, kept.run_status, kept.exit_code) == (tuple(uris), "failed", 137)


def test_a_missing_or_broken_object_makes_the_figures_incomplete_and_nothing_worse(service: Service) -> None:
    run = service.register()
    broken = service.put(run, "0001.csv.gz", b"no gzip")
    missing = f"{run['upload_uri_prefix']}/0002.csv.gz"
    whole = service.put(run, "0003.csv.gz", gzip.compress(CSV.encode()))
    answer = service.post(f"/runs/{run['run_id']}/finish", s3_body(broken, missing, whole))
    assert answer.status_code == 200
    assert (answer.json()["row_count"], answer.json()["complete"]) == (2, False)


def test_a_run_without_rows_finishes(service: Service) -> None:
    for body in (inline(data_csv=""), s3_body()):
        run_id = service.register()["run_id"]
        answer = service.post(f"/runs/{run_id}/finish", body)
        assert answer.status_code == 200
        assert answer.json()["row_count"] == 0


def test_exit_code_and_end_may_be_left_out(service: Service) -> None:
    run_id = service.register()["run_id"]
    body = {"data_source": "inline", "data_csv": CSV, "run_status": "failed"}
    assert service.post(f"/runs/{run_id}/finish", body).status_code == 200
    assert service.app.state.runs.get(run_id).exit_code is None


def test_finish_may_come_as_gzip_in_several_members(service: Service) -> None:
    run_id = service.register()["run_id"]
    text = json.dumps(inline()).encode()
    body = gzip.compress(text[:50]) + gzip.compress(text[50:])
    answer = service.post(f"/runs/{run_id}/finish", data=body, headers=GZIP_JSON)
    assert (answer.status_code, answer.json()["row_count"]) == (200, 2)


def test_a_second_finish_is_answered_409_and_changes_nothing(service: Service) -> None:
    run_id = service.register()["run_id"]
    assert service.post(f"/runs/{run_id}/finish", inline()).status_code == 200
    again = service.post(f"/runs/{run_id}/finish", inline(run_status="failed", exit_code=3))
    assert again.status_code == 409
    assert service.app.state.runs.get(run_id).run_status == "finished"


def test_another_tokens_run_is_unknown(service: Service) -> None:
    other = service.app.state.tokens.add("other")
    run_id = service.register()["run_id"]
    assert service.post(f"/runs/{run_id}/finish", inline(), token=other).status_code == 404
    assert service.post(f"/runs/{run_id}/refresh-credentials", token=other).status_code == 404


def test_an_unreachable_sts_is_503_and_no_run_is_recorded(service: Service) -> None:
    from dataclasses import replace

    from streaming.server.storage.upload_credentials import CredentialIssuer

    service.app.state.issuer.close()
    service.app.state.issuer = CredentialIssuer(replace(service.s3, endpoint_url="http://127.0.0.1:9"), lifetime_s=60)
    answer = service.post("/runs", {"job_name": "a"})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"].isdecimal()
    assert service.app.state.runs.of_token(None) == []


BAD_REGISTRATIONS: list[tuple[str, Any, str, list[Any]]] = [
    ("unknown key", {"pid": 1}, "extra_forbidden", ["body", "pid"]),
    ("another unknown key", {"job_name": "a", "x_y": None}, "extra_forbidden", ["body", "x_y"]),
    ("no object", ["a"], "model_attributes_type", ["body"]),
    ("name not text", {"job_name": 3}, "string_type", ["body", "job_name"]),
    ("name too long", {"job_name": "a" * 20_000}, "string_too_long", ["body", "job_name"]),
    ("command as list", {"command": ["a"]}, "string_type", ["body", "command"]),
    ("command as shell text", {"command": "python t.py"}, "value_error", ["body", "command"]),
    ("command as array of numbers", {"command": "[1]"}, "value_error", ["body", "command"]),
    ("half a surrogate", {"job_name": "\ud800"}, "string_unicode", ["body", "job_name"]),
]


@pytest.mark.parametrize(
    ("body", "kind", "where"), [case[1:] for case in BAD_REGISTRATIONS], ids=[case[0] for case in BAD_REGISTRATIONS]
)
def test_a_bad_registration_is_422_and_names_the_key(service: Service, body: Any, kind: str, where: list[Any]) -> None:
    answer = service.post("/runs", body)
    assert answer.status_code == 422
    details = answer.json()["detail"]
    assert [(detail["type"], detail["loc"]) for detail in details] == [(kind, where)]
    assert set(details[0]) == {"type", "loc", "msg"}


def test_what_was_sent_is_not_echoed(service: Service) -> None:
    assert "hunter2" not in service.post("/runs", {"password": "hunter2"}).text


BAD_FINISHES: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("unknown source", inline(data_source="ftp"), ["body"]),
    ("no source", {"run_status": "finished"}, ["body"]),
    ("unknown key", inline(stats=1), ["body", "stats"]),
    ("both kinds", inline(data_uris=[]), ["body", "data_uris"]),
    ("no csv", {"data_source": "inline", "run_status": "finished"}, ["body", "data_csv"]),
    ("csv no text", inline(data_csv=["a"]), ["body", "data_csv"]),
    ("csv half a surrogate", inline(data_csv="\ud800"), ["body", "data_csv"]),
    ("unknown status", inline(run_status="stale"), ["body", "run_status"]),
    ("exit code a text", inline(exit_code="x"), ["body", "exit_code"]),
    ("exit code too large", inline(exit_code=2**40), ["body", "exit_code"]),
    ("end without offset", inline(finished_at="2026-01-01T00:00:00"), ["body", "finished_at"]),
    ("end after year 9999", inline(finished_at="9999-12-31T23:59:59-10:00"), ["body", "finished_at"]),
    ("end before year 1", inline(finished_at="0001-01-01T00:00:00+10:00"), ["body", "finished_at"]),
    ("end no time", inline(finished_at="yesterday"), ["body", "finished_at"]),
    ("uri elsewhere", s3_body("s3://rows/runs/other/0001.csv.gz"), ["body", "data_uris", 0]),
    ("uri of another bucket", s3_body("s3://other/PREFIX/0001.csv.gz"), ["body", "data_uris", 0]),
    ("uri is the prefix", s3_body("s3://rows/PREFIX/"), ["body", "data_uris", 0]),
    ("uri climbs out", s3_body("s3://rows/PREFIX/../other/1"), ["body", "data_uris", 0]),
    ("uri a url", s3_body("https://rows/PREFIX/1"), ["body", "data_uris", 0]),
    ("uri twice", s3_body("s3://rows/PREFIX/1", "s3://rows/PREFIX/1"), ["body", "data_uris", 1]),
]


@pytest.mark.parametrize(("body", "where"), [case[1:] for case in BAD_FINISHES], ids=[c[0] for c in BAD_FINISHES])
def test_a_bad_finish_is_422_and_the_run_goes_on(service: Service, body: dict[str, Any], where: list[Any]) -> None:
    run = service.register()
    prefix = run["upload_uri_prefix"].removeprefix("s3://rows/")
    sent = json.loads(json.dumps(body).replace("PREFIX", prefix))
    answer = service.post(f"/runs/{run['run_id']}/finish", sent)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == where
    assert not service.app.state.runs.get(run["run_id"]).is_finished


BOMB = gzip.compress(b" " * (LIMITS.plain_bytes + 1))
NESTED_BOMB = gzip.compress(b" " * 400_000) * 3

BAD_BODIES: list[tuple[str, bytes, dict[str, str], int]] = [
    ("no JSON", b"{", JSON_TYPE, 422),
    ("empty", b"", JSON_TYPE, 422),
    ("NaN", b'{"host_vcpus": NaN}', JSON_TYPE, 422),
    ("too deep", b"[" * 100_000, JSON_TYPE, 400),
    ("not UTF-8", b'{"job_name": "\xff"}', JSON_TYPE, 400),
    ("form", b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ("no type", b"{}", {}, 415),
    ("brotli", b"{}", {**JSON_TYPE, "Content-Encoding": "br"}, 415),
    ("not gzip", b"{}", GZIP_JSON, 400),
    ("gzip cut off", gzip.compress(b"{}")[:-4], GZIP_JSON, 400),
    ("gzip bomb", BOMB, GZIP_JSON, 413),
    ("gzip bomb of members", NESTED_BOMB, GZIP_JSON, 413),
    ("too large", b" " * (LIMITS.wire_bytes + 1), JSON_TYPE, 413),
]


@pytest.mark.parametrize(("body", "headers", "status"), [c[1:] for c in BAD_BODIES], ids=[c[0] for c in BAD_BODIES])
def test_a_bad_body_is_refused(service: Service, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = service.post("/runs", data=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert "detail" in answer.json()
    assert service.app.state.runs.of_token(None) == []


def test_a_body_of_unknown_length_is_limited_too(service: Service) -> None:
    parts = iter([b" " * 50_000] * 5)
    answer = service.post("/runs", data=parts, headers=JSON_TYPE)
    assert answer.status_code == 413


BAD_AUTHORIZATIONS = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic dXNlcjpwdw==", "Bearer " + "x" * 5000]


@pytest.mark.parametrize("authorization", BAD_AUTHORIZATIONS, ids=lambda text: text[:12] or "none")
@pytest.mark.parametrize("path", ["/runs", "/runs/x/refresh-credentials", "/runs/x/finish"])
def test_a_bad_token_is_401_before_the_body_is_looked_at(service: Service, path: str, authorization: str) -> None:
    answer = service.post(path, data=b"no json", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_is_401(service: Service) -> None:
    service.app.state.tokens.revoke("tester")
    assert service.post("/runs", {}).status_code == 401


@pytest.mark.parametrize("run_id", ["nope", "a" * 3000, "%00", "..%2f.."])
def test_an_unknown_run_is_404(service: Service, run_id: str) -> None:
    assert service.post(f"/runs/{run_id}/finish", inline()).status_code == 404
    assert service.post(f"/runs/{run_id}/refresh-credentials").status_code == 404


def test_an_idempotency_key_too_long_is_422(service: Service) -> None:
    assert service.post("/runs", {}, headers={"Idempotency-Key": "k" * 256}).status_code == 422
