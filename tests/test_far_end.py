"""The far end behaves as the service and S3 do, and follows its script, seen by boto3 and requests."""

import base64
import hashlib
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.plain_client import BODY, FINISH, Client, s3_code

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def client(far_end: FarEnd) -> Client:
    return Client(far_end)


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
