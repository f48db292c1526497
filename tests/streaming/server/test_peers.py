"""The peers' clients: the real resource-tracker 0.5 package, and the request shapes of its Rust sibling."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.streaming.server.conftest import Service

CSV = '"timestamp","system_cpu_usage"\n1,0.5\n2,1.5\n'


@pytest.fixture
def peer(service: Service, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's client of the API, pointed at ours as its documentation says."""
    monkeypatch.setenv("SENTINEL_API_URL", service.url)
    from resource_tracker import sentinel_api

    return sentinel_api


def test_its_client_registers_refreshes_and_finishes_inline(service: Service, peer: Any) -> None:
    metadata = {"job_name": "a", "command": "python train.py --epochs 3", "tags": {"k": "v"}, "team": None}
    run = peer.register_run(service.token, metadata, host_info={"host_vcpus": 2}, cloud_info={"cloud_region_id": "x"})
    kept = service.app.state.runs.get(run["run_id"]).metadata
    assert kept["command"] == '["python", "train.py", "--epochs", "3"]'
    assert "expires_at" in peer.refresh_credentials(service.token, run["run_id"])["upload_credentials"]
    answer = peer.finish_run(
        service.token, run["run_id"], exit_code=0, data_source=peer.DataSource.inline, data_csv=CSV
    )
    assert answer["row_count"] == 2
    with pytest.raises(peer.SentinelAPIError) as second:
        peer.finish_run(service.token, run["run_id"], data_source=peer.DataSource.inline, data_csv=CSV)
    assert second.value.status_code == 409


def test_its_client_finishes_with_objects(service: Service, peer: Any) -> None:
    run = peer.register_run(service.token, {})
    uris = [service.put(run, f"{number:04d}.csv.gz", gzip.compress(CSV.encode())) for number in (1, 2)]
    answer = peer.finish_run(service.token, run["run_id"], data_uris=uris, run_status=peer.RunStatus.failed)
    assert answer["row_count"] == 4


def test_its_client_is_told_what_the_live_service_tells_it(service: Service, peer: Any) -> None:
    with pytest.raises(peer.SentinelAPIError) as refused:
        peer.register_run(service.token, {"pid": 1})
    assert refused.value.status_code == 422
    assert json.loads(refused.value.body)["detail"][0]["type"] == "extra_forbidden"
    with pytest.raises(peer.SentinelAPIError) as unknown:
        peer.register_run("wrong", {})
    assert unknown.value.status_code == 401


def test_its_streaming_manager_delivers_a_short_run(service: Service, peer: Any, tmp_path: Path) -> None:
    """Its S3 part speaks to AWS only, so what it can deliver elsewhere is what fits into the finish."""
    assert peer
    from resource_tracker.streaming import StreamingManager

    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    manager = StreamingManager(service.token, csv_path=str(path), metadata={"job_name": "a"})
    manager.start()
    answer = manager.stop(exit_code=0)
    assert answer["row_count"] == 2
    assert manager.run_id is not None
    assert service.app.state.runs.inline_csv(manager.run_id) == CSV.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="its tracker reads procfs")
def test_its_whole_tracker_delivers_its_rows(service: Service, peer: Any) -> None:
    assert peer
    from resource_tracker import ResourceTracker

    with ResourceTracker(interval=0.2, sentinel_token=service.token) as tracker:
        tracker.wait_for_samples(n=3, timeout=20)
    run = service.app.state.runs.of_token(None)[0]
    assert (run.run_status, run.data_source) == ("finished", "inline")
    assert run.statistics["row_count"] >= 1
    assert "system_cpu_usage" in run.statistics


def test_its_uploader_puts_an_object(service: Service, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows AWS's addresses only: what it sends there goes to the same bucket of the store instead."""
    from urllib.request import Request, urlopen

    from resource_tracker import s3_upload

    def to_our_store(request: Request, timeout: float) -> Any:
        assert request.host.startswith(f"{service.s3.bucket}.s3.{service.s3.region}.")
        headers = {name: text for name, text in request.header_items() if name != "Host"}
        headers["Content-Type"] = "binary/octet-stream"  # it names none; urllib would name a form, which moto parses
        url = f"{service.s3.endpoint_url}/{service.s3.bucket}{request.selector}"
        return urlopen(Request(url, request.data, headers, method=request.get_method()), timeout=timeout)

    monkeypatch.setattr(s3_upload, "urlopen", to_our_store)
    run = peer.register_run(service.token, {"job_name": "a"}, host_info={"host_name": "n", "host_gpu_vram_mib": 80})
    kept = service.app.state.runs.get(run["run_id"]).metadata
    assert kept == {"job_name": "a", "host_hostname": "n", "host_gpu_memory_mib": 80}
    credentials = run["upload_credentials"]
    uri = s3_upload.put_bytes_with_sts(
        s3_uri=f"{run['upload_uri_prefix']}/0001.csv.gz",
        body=gzip.compress(CSV.encode()),
        **{name: credentials[name] for name in ("access_key", "secret_key", "session_token", "region")},
    )
    assert peer.finish_run(service.token, run["run_id"], data_uris=[uri])["row_count"] == 2


# What the Rust client 0.1.14 puts on the wire, recorded with its own structs.
RUST_REGISTER = (
    b'{"job_name":"j","tags":["a=b"],"command":"[\\"sleep\\"]","host_id":null,"host_hostname":null,"host_ip":null,'
    b'"host_server_allocation":null,"host_vcpus":2,"host_cpu_model":null,"host_memory_mib":null,"host_gpu_model":null,'
    b'"host_gpu_count":null,"host_gpu_memory_mib":null,"host_storage_gb":null,"cloud_vendor_id":null,'
    b'"cloud_account_id":null,"cloud_region_id":null,"cloud_zone_id":null,"cloud_instance_type":null}'
)
RUST_FINISH_S3 = (
    '{"exit_code":0,"run_status":"finished","finished_at":"2026-11-24T10:00:00Z",'
    '"data_source":"s3","data_uris":["URI"]}'
)
RUST_FINISH_INLINE = (
    b'{"run_status":"failed","finished_at":"2026-11-24T10:00:00+00:00","data_source":"inline",'
    b'"data_csv":"\\"timestamp\\",\\"system_cpu_usage\\"\\n1,0.5\\n"}'
)
JSON = {"Content-Type": "application/json"}


def rust_credentials(answer: dict[str, Any]) -> dict[str, Any]:
    """Its struct: `expires_at` is an alias of `expiration`; both together are a duplicate field."""
    given: dict[str, Any] = answer["upload_credentials"]
    assert len({"expires_at", "expiration"} & given.keys()) == 1
    assert all(given[name] for name in ("access_key", "secret_key", "session_token"))
    return given


def test_the_rust_client_registers_refreshes_uploads_and_finishes(service: Service) -> None:
    registered = service.post("/runs", data=RUST_REGISTER, headers=JSON)
    assert registered.status_code == 201, registered.text
    run = registered.json()
    rust_credentials(run)
    assert service.app.state.runs.get(run["run_id"]).metadata == {
        "job_name": "j",
        "tags": ["a=b"],
        "command": '["sleep"]',
        "host_vcpus": 2,
    }
    refreshed = service.post(f"/runs/{run['run_id']}/refresh-credentials")
    uri = f"{run['upload_uri_prefix']}/000001.csv.gz"
    put_as_the_rust_client(service, rust_credentials(refreshed.json()), uri, gzip.compress(CSV.encode()))
    finish = RUST_FINISH_S3.replace("URI", uri).encode()
    finished = service.post(f"/runs/{run['run_id']}/finish", data=finish, headers=JSON)
    assert finished.json()["row_count"] == 2, finished.text
    assert service.get(f"/runs/{run['run_id']}/objects").json()["objects"][0]["seq"] == 1


def put_as_the_rust_client(service: Service, given: dict[str, Any], uri: str, body: bytes) -> None:
    """A PUT by SigV4 with `Content-Type: application/gzip`, and no other header of its own."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{service.s3.endpoint_url}/{uri.removeprefix('s3://')}"
    request = AWSRequest("PUT", url, headers={"Content-Type": "application/gzip"}, data=body)
    keys = Credentials(given["access_key"], given["secret_key"], given["session_token"])
    S3SigV4Auth(keys, "s3", given["region"]).add_auth(request)
    answer = requests.put(url, body, headers=dict(request.headers.items()), timeout=60)
    assert answer.status_code == 200, answer.text


def test_the_rust_client_finishes_inline_without_an_exit_code(service: Service) -> None:
    run_id = service.post("/runs", data=RUST_REGISTER, headers=JSON).json()["run_id"]
    finished = service.post(f"/runs/{run_id}/finish", data=RUST_FINISH_INLINE, headers=JSON)
    assert (finished.json()["row_count"], finished.json()["exit_code"]) == (1, None)
