"""The real SeaweedFS: what its credentials may do, how long, and that everything survives SIGKILL."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from streaming.server import EmbeddedServer
from streaming.server.process.seaweedfs import SeaweedFS
from streaming.server.storage.objects import make_client

pytestmark = pytest.mark.weed

ROWS = gzip.compress(b'"timestamp","system_cpu_usage"\n10.0,0.5\n')


@pytest.fixture(autouse=True)
def _whole(real_server: EmbeddedServer) -> None:
    """A test that failed halfway leaves no outage to the next."""
    real_server.start_s3()
    real_server.start_api()


@pytest.fixture
def run(real_server: EmbeddedServer) -> dict[str, Any]:
    return post(real_server, "/runs", {"job_name": "a"})


@pytest.fixture
def uploader(real_server: EmbeddedServer, run: dict[str, Any]) -> Any:
    client = uploader_of(real_server, run)
    yield client
    client.close()


def post(server: EmbeddedServer, path: str, body: object = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {server.token}"}
    answer = requests.post(server.api_url + path, json=body, headers=headers, timeout=60)
    assert answer.ok, answer.text
    content: dict[str, Any] = answer.json()
    return content


def uploader_of(server: EmbeddedServer, answer: dict[str, Any], service: str = "s3") -> Any:
    names = ("access_key", "secret_key", "session_token")
    return make_client(
        service, replace(server.settings.s3, **{name: answer["upload_credentials"][name] for name in names})
    )


def key_of(run: dict[str, Any], name: str = "0001.csv.gz") -> str:
    return f"runs/{run['run_id']}/{name}"


def code_of(call: Callable[..., Any], **options: Any) -> str:
    """S3's error code, or OK."""
    try:
        call(**options)
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return "OK"


def test_put_below_the_prefix_works_and_everything_else_is_denied(
    real_server: EmbeddedServer, run: dict[str, Any], uploader: Any
) -> None:
    bucket, key = real_server.bucket, key_of(run)
    put = {"Bucket": bucket, "Key": key, "Body": ROWS}
    assert code_of(uploader.put_object, **put) == "OK"
    assert code_of(uploader.put_object, **put, IfNoneMatch="*") == "PreconditionFailed"
    assert code_of(uploader.put_object, **{**put, "Key": "runs/another/0001.csv.gz"}) == "AccessDenied"
    assert code_of(uploader.put_object, **{**put, "Key": f"runs/{run['run_id']}x/1"}) == "AccessDenied"
    assert code_of(uploader.get_object, Bucket=bucket, Key=key) == "AccessDenied"
    assert code_of(uploader.head_object, Bucket=bucket, Key=key) == "403"
    assert code_of(uploader.list_objects_v2, Bucket=bucket, Prefix=f"runs/{run['run_id']}/") == "AccessDenied"
    assert code_of(uploader.delete_object, Bucket=bucket, Key=key) == "AccessDenied"
    assert code_of(uploader.list_buckets) in {"AccessDenied", "OK"}
    assert code_of(uploader.create_bucket, Bucket="another") == "AccessDenied"
    assert real_server.read_objects(run["run_id"]) == [(key, ROWS)]


def test_credentials_cannot_make_wider_ones(real_server: EmbeddedServer, run: dict[str, Any]) -> None:
    sts = uploader_of(real_server, run, "sts")
    try:
        answer = sts.assume_role(RoleArn=real_server.settings.s3.role_arn, RoleSessionName="chained")["Credentials"]
    except ClientError:
        return
    finally:
        sts.close()
    pytest.fail(f"wider credentials were issued: {answer['AccessKeyId']}")


def test_a_lifetime_of_seconds_is_enforced_and_refresh_helps(real_server: EmbeddedServer, run: dict[str, Any]) -> None:
    put = {"Bucket": real_server.bucket, "Key": key_of(run), "Body": ROWS}
    first = uploader_of(real_server, run)
    deadline = time.monotonic() + 15
    while (code := code_of(first.put_object, **put)) == "OK":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.close()
    assert code == "InvalidAccessKeyId"
    second = uploader_of(real_server, post(real_server, f"/runs/{run['run_id']}/refresh-credentials"))
    assert code_of(second.put_object, **put) == "OK"
    second.close()


def test_objects_survive_sigkill_of_the_store(real_server: EmbeddedServer, run: dict[str, Any], uploader: Any) -> None:
    endpoint = real_server.s3_endpoint_url
    assert code_of(uploader.put_object, Bucket=real_server.bucket, Key=key_of(run), Body=ROWS) == "OK"
    real_server.stop_s3()
    real_server.start_s3()
    assert real_server.s3_endpoint_url == endpoint
    assert real_server.read_objects(run["run_id"]) == [(key_of(run), ROWS)]
    refreshed = uploader_of(real_server, post(real_server, f"/runs/{run['run_id']}/refresh-credentials"))
    assert code_of(refreshed.put_object, Bucket=real_server.bucket, Key=key_of(run, "2"), Body=ROWS) == "OK"
    refreshed.close()


def test_finish_while_the_store_is_cut_off_is_accepted(
    real_server: EmbeddedServer, run: dict[str, Any], uploader: Any
) -> None:
    assert code_of(uploader.put_object, Bucket=real_server.bucket, Key=key_of(run), Body=ROWS) == "OK"
    real_server.stop_s3()
    uris = [f"s3://{real_server.bucket}/{key_of(run)}"]
    body = {"data_source": "s3", "data_uris": uris, "run_status": "finished", "exit_code": 0}
    answer = post(real_server, f"/runs/{run['run_id']}/finish", body)
    real_server.start_s3()
    assert answer["complete"] is False
    assert real_server.run(run["run_id"]).data_uris == tuple(uris)


def test_a_second_instance_runs_beside_the_first_and_leaves_nothing(
    real_server: EmbeddedServer, tmp_path: Path
) -> None:
    other = EmbeddedServer(tmp_path / "other")
    other.start()
    try:
        assert other.s3_process is not None
        sockets = [Path(path) for path in other.s3_process.unlink]
        assert other.s3_endpoint_url != real_server.s3_endpoint_url
        assert any(path.exists() for path in sockets)
    finally:
        other.stop()
    assert not any(path.exists() for path in sockets)


def test_only_its_owner_reads_its_keys(real_server: EmbeddedServer) -> None:
    names = ("plan.json", "identities.json", "iam.json", "security.toml", "inner-key.pem")
    assert {(real_server.directory.seaweedfs / name).stat().st_mode & 0o777 for name in names} == {0o600}
    assert real_server.settings.s3.secret_key not in repr(SeaweedFS(real_server.directory).settings)
