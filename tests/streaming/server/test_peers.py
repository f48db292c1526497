"""The peers' clients: the real resource-tracker 0.5 package, and the request shapes of its Rust sibling."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

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
    import gzip

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


def test_the_rust_clients_shapes_are_accepted(service: Service) -> None:
    """Tags as a list, six-digit keys, `expiration`, a finish in plain JSON."""
    import gzip

    run = service.register(job_name="a", tags=["x", "y"], command='["./train"]', host_memory_mib=1024.5)
    assert run["upload_credentials"]["expiration"] == run["upload_credentials"]["expires_at"]
    uri = service.put(run, "000001.csv.gz", gzip.compress(CSV.encode()))
    body = {"data_source": "s3", "data_uris": [uri], "run_status": "finished", "exit_code": 0}
    assert service.post(f"/runs/{run['run_id']}/finish", body).json()["row_count"] == 2
    assert service.get(f"/runs/{run['run_id']}/objects").json()["objects"][0]["seq"] == 1
