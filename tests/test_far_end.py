"""The far end does what its fault script says, seen by the real clients: boto3 and requests."""

import base64
import gzip
import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.listener import BlackHole
from tests.support.processes import Home, clean_environment, start_program
from tests.support.remote import RemoteFarEnd

pytestmark = pytest.mark.usefixtures("home")

BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)
FINISH = {"data_source": "inline", "data_csv": "timestamp\n1\n", "run_status": "finished"} | {
    "exit_code": 0,
    "finished_at": "2030-01-01T00:00:00Z",
}


class Client:
    """What a well-behaved peer does, and nothing more."""

    def __init__(self, far_end: FarEnd, *, timeout_s: float = 5.0) -> None:
        self.far_end = far_end
        self.timeout_s = timeout_s
        self.answer: dict[str, Any] = {}

    def post(self, path: str, content: Any = None, **headers: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.far_end.token}", **headers}
        with requests.Session() as session:
            session.trust_env = False
            url = self.far_end.api_url + path
            verify = str(self.far_end.ca_file) if self.far_end.ca_file else True
            return session.post(
                url, json=content, headers=headers, timeout=self.timeout_s, allow_redirects=False, verify=verify
            )

    def register(self) -> str:
        self.answer = self.post("/runs", {"job_name": "x"}).json()
        return str(self.answer["run_id"])

    def put(self, name: str = "00000001-abc.csv.gz", body: bytes = BODY, **options: Any) -> dict[str, Any]:
        if not self.answer:
            self.register()
        bucket, _, path = self.answer["upload_uri_prefix"].removeprefix("s3://").partition("/")
        with closing(self.s3()) as s3:
            return dict(s3.put_object(Bucket=bucket, Key=f"{path}/{name}", Body=body, **options))

    def s3(self) -> Any:
        keys = self.answer["upload_credentials"]
        retries = {"total_max_attempts": 1}
        style = {"addressing_style": "path"}
        config = Config(retries=retries, s3=style, read_timeout=self.timeout_s, connect_timeout=self.timeout_s)
        return boto3.client(
            "s3",
            endpoint_url=self.far_end.s3_endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
            aws_session_token=keys["session_token"],
            config=config,
            verify=str(self.far_end.ca_file) if self.far_end.ca_file else None,
        )


@pytest.fixture
def client(far_end: FarEnd) -> Client:
    return Client(far_end)


def s3_code(put: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        put()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


# -- the service, behaving ---------------------------------------------------------------------------------------------


def test_register_answers_run_prefix_and_credentials(client: Client, far_end: FarEnd) -> None:
    run_id = client.register()
    assert client.answer["upload_uri_prefix"] == f"s3://far-end-bucket/team/{run_id}"
    assert set(client.answer["upload_credentials"]) == {"access_key", "secret_key", "session_token", "expires_at"}
    assert far_end.run(run_id).metadata == {"job_name": "x"}


def test_same_idempotency_key_is_same_run(client: Client, far_end: FarEnd) -> None:
    first, again = (client.post("/runs", {}, **{"Idempotency-Key": "spool-1"}).json()["run_id"] for _ in range(2))
    other = client.post("/runs", {}, **{"Idempotency-Key": "spool-2"}).json()["run_id"]
    assert first == again != other
    assert len(far_end.runs) == 2


def test_closed_schema_names_the_forbidden_keys(client: Client, far_end: FarEnd) -> None:
    answer = client.post("/runs", {"pid": 1, "job_name": "x"})
    assert answer.status_code == 422
    assert [(each["type"], each["loc"]) for each in answer.json()["detail"]] == [("extra_forbidden", ["body", "pid"])]
    far_end.service.forbidden_keys = {"team"}
    assert client.post("/runs", {"team": "x"}).status_code == 422


@pytest.mark.parametrize(
    "metadata", [{"command": ["a"]}, {"command": "not json"}, {"tags": "x"}, {"team": ["a"]}, ["a list"]]
)
def test_ill_typed_metadata_is_refused(client: Client, metadata: Any) -> None:
    assert client.post("/runs", metadata).status_code == 422


def test_finish_is_taken_once(client: Client, far_end: FarEnd) -> None:
    path = f"/runs/{client.register()}/finish"
    assert client.post(path, FINISH).status_code == 200
    assert client.post(path, FINISH).status_code == 409
    assert far_end.wait_finished().finish == FINISH
    assert [entry.payload for entry in far_end.journal.requests("finish", stored=True)] == [FINISH]


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 1},
        {"data_uris": []},
        {"run_status": "killed"},
        {"exit_code": None},
        {"exit_code": "0"},
        {"finished_at": "2030-01-01T00:00:00"},
        {"finished_at": "2030-01-01T00:00:00+02:00"},
        {"data_source": "s3"},
        {"data_csv": None},
    ],
)
def test_finish_that_the_schema_forbids_is_refused(client: Client, far_end: FarEnd, change: dict[str, Any]) -> None:
    assert client.post(f"/runs/{client.register()}/finish", {**FINISH, **change}).status_code == 422
    assert far_end.run().finish is None


def test_wrong_revoked_and_rotated_tokens_get_401(client: Client, far_end: FarEnd) -> None:
    assert client.post("/runs", {}, Authorization="Bearer nobody").status_code == 401
    old = far_end.token
    new = far_end.rotate_token()
    assert client.post("/runs", {}, Authorization=f"Bearer {old}").status_code == 401
    assert client.post("/runs", {}, Authorization=f"Bearer {new}").status_code == 200
    far_end.revoke_token()
    assert client.post("/runs", {}).status_code == 401
    far_end.accept_token(new)
    assert client.post("/runs", {}).status_code == 200
    assert {old, new} <= set(far_end.secrets())


def test_unknown_and_forgotten_runs_get_404(client: Client, far_end: FarEnd) -> None:
    assert client.post("/runs/nobody/finish", FINISH).status_code == 404
    run_id = client.register()
    assert client.post(f"/runs/{run_id}/refresh-credentials").status_code == 200
    far_end.forget(run_id)
    assert client.post(f"/runs/{run_id}/refresh-credentials").status_code == 404


def test_base_url_keeps_its_path() -> None:
    with FarEnd(api_path="/sentinel/v1/") as far_end:
        assert far_end.api_url.endswith("/sentinel/v1")
        client = Client(far_end)
        assert client.post("/runs", {}).status_code == 200
        with requests.post(f"{far_end.api.url}/runs", timeout=60) as answer:
            assert answer.status_code == 403
        assert far_end.journal.count("other") == 1


# -- S3, behaving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SHA256", "CRC32", "SHA1"])
def test_put_stores_and_proves_it(client: Client, far_end: FarEnd, algorithm: str) -> None:
    answer = client.put(ChecksumAlgorithm=algorithm, IfNoneMatch="*", ContentType="application/gzip")
    assert answer["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    assert answer[f"Checksum{algorithm}"]
    (uri,) = far_end.objects
    assert far_end.objects[uri] == BODY
    assert far_end.store.headers[uri]["content-type"] == "application/gzip"
    (entry,) = far_end.journal.requests("put", stored=True)
    assert (entry.uri, entry.body_sha256) == (uri, hashlib.sha256(BODY).hexdigest())


def test_signature_is_verified_on_request() -> None:
    with FarEnd(verify_signature=True) as far_end:
        client = Client(far_end)
        client.put(IfNoneMatch="*")
        client.put("odd name+~%.gz")
        client.answer["upload_credentials"]["secret_key"] = "wrong"
        assert s3_code(client.put) == ("SignatureDoesNotMatch", 403)


def test_aws_chunked_bodies_are_unframed() -> None:
    with FarEnd(tls=True) as far_end:  # over TLS botocore signs no payload and sends the checksum as a trailer
        client = Client(far_end)
        client.register()
        with closing(client.s3()) as s3:
            bucket, _, path = client.answer["upload_uri_prefix"].removeprefix("s3://").partition("/")
            with NoSeek(b"x" * 200_000) as body:
                s3.put_object(Bucket=bucket, Key=f"{path}/a", Body=body, ChecksumAlgorithm="SHA256")
        assert list(far_end.objects.values()) == [b"x" * 200_000]
        (entry,) = far_end.journal.requests("put")
        assert "aws-chunked" in entry.headers["content-encoding"]


class NoSeek:
    """A body whose end is known only when it is reached; wide enough open for botocore."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def __enter__(self) -> "NoSeek":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read(self, size: int = -1) -> bytes:
        end = len(self._content) if size is None or size < 0 else self._at + size
        piece = self._content[self._at : end]
        self._at += len(piece)
        return piece

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (len(self._content) if whence == 2 else self._at if whence == 1 else 0)
        return self._at


def test_key_is_not_overwritten_where_it_may_not_exist(client: Client, far_end: FarEnd) -> None:
    client.put(IfNoneMatch="*")
    assert s3_code(lambda: client.put(IfNoneMatch="*", body=b"other")) == ("PreconditionFailed", 412)
    assert list(far_end.objects.values()) == [BODY]
    client.put(body=b"other")
    assert [len(digests) for digests in far_end.evidence().history.values()] == [2]


def test_store_without_if_none_match_says_501(client: Client, far_end: FarEnd) -> None:
    far_end.store.knows_if_none_match = False
    assert s3_code(lambda: client.put(IfNoneMatch="*")) == ("NotImplemented", 501)
    client.put()


def test_wrong_digests_are_refused(client: Client, far_end: FarEnd) -> None:
    wrong = base64.b64encode(b"0" * 32).decode()
    assert s3_code(lambda: client.put(ChecksumSHA256=wrong)) == ("BadDigest", 400)
    assert s3_code(lambda: client.put(ContentMD5=base64.b64encode(b"0" * 16).decode())) == ("BadDigest", 400)
    assert not far_end.objects


def test_credentials_expire_are_revoked_and_scoped(client: Client, far_end: FarEnd) -> None:
    client.put()
    far_end.expire_now()
    assert s3_code(client.put) == ("ExpiredToken", 400)
    far_end.store.expired_token_status = 403
    assert s3_code(client.put) == ("ExpiredToken", 403)
    client.register()
    client.put()
    far_end.revoke()
    assert s3_code(client.put) == ("InvalidAccessKeyId", 403)
    client.register()
    client.answer["upload_credentials"]["session_token"] = "forged"
    assert s3_code(client.put) == ("InvalidToken", 400)
    client.register()
    client.answer["upload_uri_prefix"] += "-elsewhere"
    assert s3_code(client.put) == ("AccessDenied", 403)
    client.answer["upload_uri_prefix"] = "s3://nowhere/x"
    assert s3_code(client.put) == ("NoSuchBucket", 404)


def test_lifetime_and_shape_of_credentials_follow_the_settings(client: Client, far_end: FarEnd) -> None:
    far_end.credentials_lifetime_s = -1
    far_end.grants.claimed_lifetime_s = 3600
    far_end.grants.expiry_field = "expiration"
    far_end.grants.region = "eu-west-3"
    client.register()
    assert {"expiration", "region"} <= set(client.answer["upload_credentials"])
    assert s3_code(client.put)[0] == "ExpiredToken"
    far_end.grants.expiry_field = None
    client.register()
    assert "expires_at" not in client.answer["upload_credentials"]
    far_end.grants.expiry_field, far_end.grants.expiry_text = "expires_at", "soon"
    client.register()
    assert client.answer["upload_credentials"]["expires_at"] == "soon"


def test_skewed_clock_shows_in_date_and_refuses_requests(client: Client, far_end: FarEnd) -> None:
    far_end.clock_skew_s = 3600
    date = client.post("/runs", {}).headers["Date"]
    assert 3500 < parsedate_to_datetime(date).timestamp() - time.time() < 3700
    assert s3_code(client.put) == ("RequestTimeTooSkewed", 403)


def test_bucket_tells_its_region_without_leave(client: Client, far_end: FarEnd) -> None:
    client.register()
    far_end.store.bucket_region = "eu-north-1"
    answer = requests.head(f"{far_end.s3_endpoint_url}/far-end-bucket", timeout=60)
    assert (answer.status_code, answer.headers["x-amz-bucket-region"]) == (403, "eu-north-1")


def test_reading_and_listing_are_denied(client: Client, far_end: FarEnd) -> None:
    client.put()
    with closing(client.s3()) as s3:
        assert s3_code(lambda: s3.list_objects_v2(Bucket="far-end-bucket")) == ("AccessDenied", 403)


# -- the script --------------------------------------------------------------------------------------------------------


def statuses(client: Client, count: int) -> list[int]:
    return [client.post("/runs", {}).status_code for _ in range(count)]


def test_next_ones_queue_up_then_all_is_well(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("register", faults.answer(500), times=2)
    far_end.fail_next("register", faults.answer(503))
    assert statuses(client, 4) == [500, 500, 503, 200]
    assert len(far_end.runs) == 1


def test_nth_counts_from_now(client: Client, far_end: FarEnd) -> None:
    far_end.nth("register", 2, faults.answer(500))
    assert statuses(client, 3) == [200, 500, 200]


def test_always_holds_until_cleared_and_next_ones_go_first(client: Client, far_end: FarEnd) -> None:
    rule = far_end.always("any", faults.answer(503))
    far_end.fail_next("register", faults.answer(429))
    assert statuses(client, 3) == [429, 503, 503]
    rule.clear()
    with far_end.always("register", faults.answer(500)) as other:
        assert statuses(client, 1) == [500]
    assert statuses(client, 1) == [200]
    assert (rule.fired, other.fired) == (2, 1)
    far_end.always("any", faults.answer(503))
    far_end.clear()
    assert statuses(client, 1) == [200]


def test_unknown_kind_is_refused(far_end: FarEnd) -> None:
    with pytest.raises(ValueError, match="upload"):
        far_end.always("upload", faults.silent())


def test_poison_hits_one_key_and_reject_all_every(client: Client, far_end: FarEnd) -> None:
    far_end.poison("/00000002-")
    client.put("00000001-a")
    assert s3_code(lambda: client.put("00000002-b")) == ("InvalidRequest", 400)
    client.put("00000003-c")
    far_end.reject_all()
    assert s3_code(lambda: client.put("00000004-d")) == ("InvalidRequest", 400)
    assert len(far_end.objects) == 2


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["7", "99999999", "garbage", faults.http_date(60)], ids=["seconds", "huge", "garbage", "date"]
)
def test_retry_after_is_sent_verbatim(client: Client, far_end: FarEnd, text: str) -> None:
    far_end.fail_next("register", faults.answer(429, retry_after=text))
    assert client.post("/runs", {}).headers["Retry-After"] == text


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 413, 422, 429, 500, 503, 511])
def test_scripted_status_stores_nothing(client: Client, far_end: FarEnd, status: int) -> None:
    far_end.fail_next("register", faults.answer(status))
    answer = client.post("/runs", {})
    assert (answer.status_code, answer.json()) == (status, {"detail": f"scripted {status}"})
    assert not far_end.runs
    (entry,) = far_end.journal.requests("register")
    assert (entry.stored, entry.status) == (False, status)


def test_scripted_s3_errors_are_xml(client: Client, far_end: FarEnd) -> None:
    client.register()
    for fault, expected in (
        (faults.s3_error("ExpiredToken", 400), ("ExpiredToken", 400)),
        (faults.answer(503), ("SlowDown", 503)),
        (faults.answer(409), ("OperationAborted", 409)),
        (faults.answer(413, early=True), ("EntityTooLarge", 413)),
    ):
        far_end.fail_next("put", fault)
        assert s3_code(client.put) == expected
    assert not far_end.objects


def test_captive_portal_looks_like_success_and_stores_nothing(client: Client, far_end: FarEnd) -> None:
    client.register()
    for fault in (faults.captive_portal(), faults.pretended(200), faults.pretended(204)):
        far_end.fail_next("put", fault)
        assert "ETag" not in client.put()  # boto3 sees nothing wrong: this is the danger
    far_end.fail_next("register", faults.captive_portal())
    answer = client.post("/runs", {})
    assert answer.status_code == 200
    assert "text/html" in answer.headers["Content-Type"]
    assert not far_end.objects


def test_redirect_leads_elsewhere(client: Client, far_end: FarEnd) -> None:
    with FarEnd() as elsewhere:
        far_end.fail_next("register", faults.redirect(f"{elsewhere.api_url}/runs", 307))
        answer = client.post("/runs", {})
        assert (answer.status_code, answer.headers["Location"]) == (307, f"{elsewhere.api_url}/runs")
        assert not elsewhere.journal.count()


def test_odd_json_answers(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("register", faults.without("run_id", "upload_credentials.session_token"))
    answer = client.post("/runs", {}).json()
    assert "run_id" not in answer
    assert "session_token" not in answer["upload_credentials"]
    far_end.fail_next("register", faults.with_fields(upload_uri_prefix="file:///etc"))
    assert client.post("/runs", {}).json()["upload_uri_prefix"] == "file:///etc"
    far_end.fail_next("register", faults.edited(lambda body: body["upload_credentials"].clear()))
    assert client.post("/runs", {}).json()["upload_credentials"] == {}
    far_end.fail_next("register", faults.not_json())
    assert client.post("/runs", {}).text == "OK"
    far_end.fail_next("register", faults.forbidden_keys("team", "env"))
    assert [each["loc"][1] for each in client.post("/runs", {}).json()["detail"]] == ["team", "env"]


@pytest.mark.parametrize("declares_length", [True, False])
def test_oversize_answer(client: Client, far_end: FarEnd, declares_length: bool) -> None:
    far_end.fail_next("register", faults.oversize(3, declares_length=declares_length))
    answer = client.post("/runs", {})
    assert len(answer.content) == 3_000_002
    assert ("Content-Length" in answer.headers) == declares_length
    assert not far_end.runs


def test_hostile_prefix_is_sent_as_set(client: Client, far_end: FarEnd) -> None:
    for prefix in ("file:///etc/x", "s3://", "s3://b/../x", "s3://bu\ncket/x", ""):
        far_end.service.upload_uri_prefix = prefix
        client.register()
        assert client.answer["upload_uri_prefix"] == prefix


def test_stored_without_proof_and_with_wrong_proof(client: Client, far_end: FarEnd) -> None:
    client.register()
    far_end.fail_next("put", faults.no_etag())
    assert "ETag" not in client.put("a")
    far_end.fail_next("put", faults.wrong_checksum())
    answer = client.put("b", ChecksumAlgorithm="SHA256")
    assert answer["ETag"] == f'"{"0" * 32}"'
    assert answer["ChecksumSHA256"] != base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    far_end.fail_next("put", faults.with_headers(ETag=None, x_extra="1"))
    answer = client.put("c")
    assert "ETag" not in answer
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-extra"] == "1"
    assert len(far_end.objects) == 3


def test_occupied_key_holds_something_else(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("put", faults.occupied(b"not ours"))
    assert s3_code(lambda: client.put(IfNoneMatch="*"))[0] == "PreconditionFailed"
    assert list(far_end.objects.values()) == [b"not ours"]


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_reply_lost_is_stored_and_journalled(client: Client, far_end: FarEnd, reset: bool) -> None:
    client.register()
    far_end.fail_next("put", faults.reply_lost(reset=reset))
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        client.put(IfNoneMatch="*")
    (entry,) = far_end.journal.requests("put")
    assert (entry.stored, entry.status) == (True, None)
    assert s3_code(lambda: client.put(IfNoneMatch="*")) == ("PreconditionFailed", 412)


def test_lost_reply_to_register_leaves_one_run(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("register", faults.reply_lost())
    with pytest.raises(requests.ConnectionError):
        client.post("/runs", {}, **{"Idempotency-Key": "k"})
    answer = client.post("/runs", {}, **{"Idempotency-Key": "k"}).json()
    assert far_end.run().run_id == answer["run_id"]


@pytest.mark.parametrize("fault", [faults.closed(), faults.closed(reset=True), faults.cut_upload(1000)])
def test_closed_before_the_body_is_read_stores_nothing(client: Client, far_end: FarEnd, fault: faults.Fault) -> None:
    client.register()
    far_end.fail_next("put", fault)
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        client.put(body=b"x" * 5_000_000)
    (entry,) = far_end.journal.requests("put")
    assert (entry.stored, entry.body_bytes) == (False, None)
    assert not far_end.objects


@pytest.mark.parametrize("stores", [False, True])
def test_silence_lasts_until_the_client_gives_up(far_end: FarEnd, stores: bool) -> None:
    client = Client(far_end, timeout_s=0.3)
    client.register()
    far_end.fail_next("put", faults.silent(stores=stores))
    with pytest.raises(ReadTimeoutError):
        client.put()
    assert len(far_end.objects) == stores


@pytest.mark.parametrize("fault", [faults.silent(), faults.closed(), faults.closed(reset=True)])
def test_connection_itself_meets_the_fault(far_end: FarEnd, fault: faults.Fault) -> None:
    client = Client(far_end, timeout_s=0.3)
    with far_end.always("connect", fault), pytest.raises((requests.ConnectionError, requests.ReadTimeout)):
        client.post("/runs", {})
    assert not far_end.journal.count()
    client.register()


def test_trickle_outlives_a_read_timeout(far_end: FarEnd) -> None:
    client = Client(far_end, timeout_s=0.3)
    far_end.fail_next("register", faults.trickle(interval_s=0.0015))
    started_s = time.monotonic()
    answer = client.post("/runs", {})
    assert answer.status_code == 200
    assert time.monotonic() - started_s > 2 * client.timeout_s
    far_end.fail_next("register", faults.trickle(interval_s=0.001, body_only=True))
    assert client.post("/runs", {}).json()["run_id"]


def test_half_closed_and_truncated_answers(client: Client, far_end: FarEnd) -> None:
    for fault in (faults.half_closed(), faults.half_closed(5), faults.truncated(5)):
        far_end.fail_next("register", fault)
        with pytest.raises(requests.ConnectionError):
            client.post("/runs", {})
    far_end.fail_next("register", faults.truncated(250))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        client.post("/runs", {})
    assert len(far_end.runs) == 4  # all were obeyed


def test_held_request_is_stored_before_it_is_released(client: Client, far_end: FarEnd) -> None:
    client.register()
    fault = faults.held()
    far_end.fail_next("put", fault)
    thread = threading.Thread(target=client.put)
    thread.start()
    assert fault.gate is not None
    assert fault.gate.reached.wait(60)
    assert len(far_end.objects) == far_end.journal.count("put", stored=True) == 1
    assert thread.is_alive()
    fault.gate.release()
    thread.join(5)
    assert not thread.is_alive()


def test_slow_link_and_delay_take_their_time(client: Client, far_end: FarEnd) -> None:
    client.register()
    far_end.fail_next("put", faults.slow_reading(100_000))
    started_s = time.monotonic()
    client.put(body=b"x" * 40_000)
    assert time.monotonic() - started_s >= 0.4
    far_end.fail_next("put", faults.delayed(0.3))
    client.put()
    assert far_end.journal.intervals_s("put")[0] >= 0.4


def test_down_refuses_resets_and_comes_back_on_the_same_port(client: Client, far_end: FarEnd) -> None:
    with socket.create_connection(("127.0.0.1", far_end.api.port), timeout=5) as idle:
        idle.sendall(b"POST /runs HTTP/1.1\r\n")
        url = far_end.api_url
        far_end.down()
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    with pytest.raises(requests.ConnectionError):
        client.post("/runs", {})
    far_end.up()
    assert far_end.api_url == url
    client.register()
    far_end.down("s3")
    with pytest.raises(EndpointConnectionError):
        client.put()
    client.post("/runs", {})
    far_end.up("s3")
    client.put()


def test_down_interrupts_what_is_held(far_end: FarEnd) -> None:
    client = Client(far_end)
    far_end.always("register", faults.silent())
    caught: list[Exception] = []

    def ask() -> None:
        try:
            client.post("/runs", {})
        except requests.ConnectionError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    far_end.journal.wait_for_count("register", 1)
    far_end.down()
    thread.join(5)
    assert len(caught) == 1


def test_black_hole_does_not_answer_a_connect() -> None:
    with BlackHole() as hole, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", hole.port), timeout=0.3)


def test_tls_is_verified_against_our_own_ca_only() -> None:
    with FarEnd(tls=True) as far_end:
        client = Client(far_end)
        client.put()
        assert len(far_end.objects) == 1
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(far_end.api_url, timeout=60)
    for wrong in (FarEnd(tls=True, certificate_host="other.example"), FarEnd(tls=True, certificate_expired=True)):
        with wrong as far_end, pytest.raises(requests.exceptions.SSLError):
            Client(far_end).post("/runs", {})


def test_tls_spoken_to_a_plain_door_is_hung_up(far_end: FarEnd) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.post(f"https://127.0.0.1:{far_end.api.port}/runs", timeout=60)


# -- journal -----------------------------------------------------------------------------------------------------------


def test_journal_waits_and_says_what_it_saw(client: Client, far_end: FarEnd) -> None:
    threading.Timer(0.1, client.post, ("/runs", {})).start()
    (entry,) = far_end.journal.wait_for_count("register", 1)
    assert entry.outcome == "stored, 200"
    with pytest.raises(AssertionError, match="register POST /runs: stored, 200"):
        far_end.journal.wait_for(lambda journal: journal.count() > 9, deadline_s=0.1)


def test_journal_file_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    with FarEnd(journal_file=file) as far_end:
        Client(far_end).put()
        text = file.read_text()
        assert len(text.splitlines()) == 2
        assert not any(canary in text for canary in far_end.secrets() if not canary.startswith("ASIA"))


# -- as a process ------------------------------------------------------------------------------------------------------


def test_far_end_in_a_process_of_its_own(home: Home, marker: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RemoteFarEnd.start("--journal", str(journal), "--token", "canary-token") as remote:
        assert remote.token == "canary-token"
        remote.do("fail_next", kind="register", fault="answer", **{"with": {"status": 503}})
        headers = {"Authorization": "Bearer canary-token"}
        answers = [requests.post(f"{remote.api_url}/runs", json={}, headers=headers, timeout=60) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 200]
        run_id = answers[1].json()["run_id"]
        remote.do("down", door="api")
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{remote.api_url}/runs", timeout=60)
        remote.do("up")
        assert remote.evidence(run_id).finish is None
        assert remote.do("state")["requests"] == 2
        with pytest.raises(ValueError, match="unknown command"):
            remote.do("nonsense")
    assert len(journal.read_text().splitlines()) == 2


def test_process_ends_when_its_stdin_ends(home: Home, marker: str) -> None:
    command = ["-m", "tests.support.far_end"]
    with RemoteFarEnd.start() as remote:
        process: subprocess.Popen[bytes] = remote.process
    assert process.returncode == 0
    with start_program(["python3", *command], clean_environment(home, marker), stdin=True) as program:
        assert "api_url" in program.read_line()
        program.say('{"do": "stop"}')
        assert program.wait(60).exit_code == 0
