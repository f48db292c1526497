"""The door to S3: one object at a time, believed to be stored only with a proof, and only where we said."""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from streaming.clients import s3
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.s3 import ObjectStore
from streaming.errors import (
    Busy,
    ClockSkew,
    NotTheService,
    SegmentRefused,
    SegmentTooLarge,
    StreamError,
    Transient,
    Unreachable,
)
from tests.streaming.clients.doors import BODY, Door
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault

pytestmark = pytest.mark.usefixtures("home")


# -- what is sent, and the proof ---------------------------------------------------------------------------------------


def test_object_is_stored_with_type_condition_and_digests(home: Any) -> None:
    with FarEnd(verify_signature=True) as far_end:
        door = Door(far_end)
        receipt = door.put()
        door.clients.reset()
        (entry,) = far_end.journal.requests("put")
    assert receipt == s3.Receipt(door.uri, hashlib.md5(BODY).hexdigest())
    assert far_end.objects == {door.uri: BODY}
    assert entry.headers["content-type"] == "application/gzip"
    assert entry.headers["if-none-match"] == "*"
    assert "content-encoding" not in entry.headers
    assert {"content-md5", "x-amz-checksum-sha256", "x-amz-security-token"} <= set(entry.headers)
    assert far_end.journal.count() == 2


def test_etag_alone_is_proof_where_no_checksum_is_echoed(door: Door, far_end: FarEnd) -> None:
    far_end.store.echoes_checksum = False
    assert door.put().etag == hashlib.md5(BODY).hexdigest()


def test_checksum_alone_is_proof_where_the_etag_is_no_md5(door: Door, far_end: FarEnd) -> None:
    far_end.always("put", faults.with_headers(ETag='"abc-kms"'))
    assert door.put().etag == "abc-kms"


@pytest.mark.parametrize(
    "fault",
    [
        faults.captive_portal(),
        faults.pretended(200),
        faults.pretended(204),
        faults.pretended(200, {"ETag": '"00000000000000000000000000000000"'}),
        faults.pretended(204, {"ETag": f'"{hashlib.md5(BODY).hexdigest()}"'}),
        faults.no_etag(),
        faults.with_headers(ETag=None),
        faults.wrong_checksum(),
        faults.answer(404, b"<html>not a store</html>"),
        faults.answer(403, b"\x00\x01\x02"),
        faults.oversize(3),
        faults.oversize(3, declares_length=False),
    ],
    ids=lambda fault: fault.name,
)
def test_without_proof_nothing_counts_as_stored(door: Door, fault: Fault) -> None:
    assert isinstance(door.refusal(fault), NotTheService)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(door: Door, far_end: FarEnd, status: int) -> None:
    with FarEnd() as elsewhere:
        met = door.refusal(faults.redirect(elsewhere.s3_endpoint_url + "/far-end-bucket/x", status))
        assert isinstance(met, NotTheService)
        assert elsewhere.journal.count() == 0
    assert far_end.objects == {}


# -- what is there already, and stores that know no conditions ---------------------------------------------------------


def test_lost_reply_is_repaired_by_the_same_bytes_without_alarm(
    door: Door, far_end: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    far_end.fail_next("put", faults.reply_lost())
    with pytest.raises(Unreachable):
        door.put()
    door.put()
    assert far_end.store.history[door.uri] == [hashlib.sha256(BODY).hexdigest()] * 2
    assert caplog.text == ""


def test_occupied_key_is_written_again_and_told(door: Door, far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    far_end.fail_next("put", faults.occupied())
    receipt = door.put()
    assert receipt.etag == hashlib.md5(BODY).hexdigest()
    assert far_end.objects[door.uri] == BODY
    assert f"upload.already_there: {door.uri}" in caplog.text


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (faults.s3_error("PreconditionFailed", 412), SegmentRefused),
        (faults.s3_error("AccessDenied"), Transient),
        (faults.s3_error("ObjectLocked", 400), SegmentRefused),
        (faults.s3_error("IllegalLocationConstraintException", 400), SegmentRefused),  # and names no region
        (faults.answer(503), Busy),
        (faults.captive_portal(), NotTheService),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_occupied_key_that_cannot_be_written_is_no_success(
    door: Door, far_end: FarEnd, second: Fault, error: type[StreamError]
) -> None:
    far_end.fail_next("put", faults.occupied())
    far_end.always("put", second, matching=lambda head: "if-none-match" not in head.headers)
    with pytest.raises(error):
        door.put()
    assert far_end.objects[door.uri] == b"somebody else's object"


@pytest.mark.parametrize(
    "fault",
    [
        faults.answer(501),
        faults.s3_error("InvalidArgument", 400),
        faults.s3_error("MethodNotAllowed", 405),
        faults.answer(405, b"<html>405</html>"),
    ],
    ids=["501", "400", "405", "405 of a proxy"],
)
def test_store_without_conditions_gets_plain_puts_from_then_on(door: Door, far_end: FarEnd, fault: Fault) -> None:
    far_end.always("put", fault, matching=lambda head: "if-none-match" in head.headers)
    door.put()
    door.put(uri=door.uri.replace("00000001", "00000002"))
    conditions = ["if-none-match" in entry.headers for entry in far_end.journal.requests("put")]
    assert conditions == [True, False, False]
    assert len(far_end.objects) == 2


def test_store_that_denies_conditions_gets_plain_puts_from_then_on(door: Door, far_end: FarEnd) -> None:
    far_end.always("put", faults.s3_error("AccessDenied"), matching=lambda head: "if-none-match" in head.headers)
    door.put()
    door.put(uri=door.uri.replace("00000001", "00000002"))
    conditions = ["if-none-match" in entry.headers for entry in far_end.journal.requests("put")]
    assert conditions == [True, True, False, False]


def test_refused_object_does_not_end_conditions_for_others(door: Door, far_end: FarEnd) -> None:
    far_end.poison("/00000001-")
    with pytest.raises(SegmentRefused):
        door.put()
    door.put(uri=door.uri.replace("00000001", "00000002"))
    assert "if-none-match" in far_end.journal.requests("put")[-1].headers


# -- which error each answer becomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "cause"),
    [
        (faults.answer(500), Busy, "HTTP 500"),
        (faults.answer(503), Busy, "HTTP 503"),
        (faults.answer(429), Busy, "HTTP 429"),
        (faults.s3_error("ConditionalRequestConflict", 409), Busy, "HTTP 409"),
        (faults.s3_error("RequestTimeout", 400), Busy, "HTTP 400"),
        (faults.captive_portal(511), Busy, "captive portal"),
        (faults.closed(), Unreachable, "connection lost"),
        (faults.closed(reset=True), Unreachable, "connection lost"),
        (faults.cut_upload(), Unreachable, "connection lost"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_outage_is_transient_and_its_cause_named(door: Door, fault: Fault, error: type[Transient], cause: str) -> None:
    met = door.refusal(fault)
    assert type(met) is error
    assert met.cause == cause


@pytest.mark.parametrize(
    ("code", "status"),
    [("InvalidRequest", 400), ("KeyTooLongError", 400), ("NoSuchBucket", 404), ("MetadataTooLarge", 400)],
)
def test_refused_object_is_refused_for_good_with_the_stores_own_words(door: Door, code: str, status: int) -> None:
    met = door.refusal(faults.s3_error(code, status, "what the store says"))
    assert type(met) is SegmentRefused
    assert (met.code, met.status) == (code, status)
    assert met.message == f"S3 answered {status} {code} (what the store says)"
    assert met.hint


@pytest.mark.parametrize(
    "fault",
    [
        faults.s3_error("EntityTooLarge", 400),
        faults.s3_error("", 413),
        faults.answer(413, b"<html>413 Request Entity Too Large</html>", headers={"Content-Type": "text/html"}),
        faults.answer(413, b"<html>413</html>", headers={"Content-Type": "text/html"}, early=True),
    ],
    ids=["S3's", "no code", "a proxy's", "a proxy's that reads nothing"],
)
def test_object_too_large_is_told_from_other_refusals(door: Door, fault: Fault) -> None:
    assert type(door.refusal(fault)) is SegmentTooLarge


def test_json_on_200_is_named_for_what_it_is(door: Door) -> None:
    met = door.refusal(faults.json_answer(200, {"hello": "console"}))
    assert isinstance(met, NotTheService)
    assert met.cause == "not S3"
    assert "SENTINEL_S3_ENDPOINT_URL" in met.hint


def test_echoed_session_token_is_in_no_message(door: Door, far_end: FarEnd) -> None:
    token = far_end.grants.all()[0].session_token
    met = door.refusal(faults.s3_error("InvalidRequest", 400, f"bad header {token}"))
    assert "bad header ***" in met.message


def test_session_token_echoed_as_a_region_is_in_no_message(door: Door, far_end: FarEnd) -> None:
    token = far_end.grants.all()[0].session_token
    met = door.refusal(faults.with_headers(**{"x-amz-bucket-region": f"/{token}"}))
    assert token[:16] not in str(met)


def test_hostile_error_code_is_not_repeated(door: Door) -> None:
    met = door.refusal(faults.s3_error("Evil&#x202E;[2J" + "x" * 500, 413))
    assert type(met) is SegmentTooLarge
    assert len(met.message) < 100


@pytest.mark.parametrize("status", [503, 429])
def test_retry_after_of_s3_is_read(door: Door, far_end: FarEnd, status: int) -> None:
    far_end.clock_skew_s = 600.0
    for given, asked_s in (("120", 120.0), (faults.http_date(660), 60.0), ("garbage", None)):
        met = door.refusal(faults.answer(status, retry_after=given))
        assert isinstance(met, Busy)
        assert met.retry_after_s == (None if asked_s is None else pytest.approx(asked_s, abs=5))


@pytest.mark.parametrize(("skew_s", "words"), [(3600.0, "60 minutes behind"), (-5 * 3600.0, "300 minutes ahead of")])
def test_clock_skew_is_named_with_its_size(door: Door, far_end: FarEnd, skew_s: float, words: str) -> None:
    far_end.clock_skew_s = skew_s
    far_end.grants.expiry_field = None
    door.clients.store.keep(door.run_id, door.clients.service.refresh(door.run_id))
    met = door.refusal()
    assert type(met) is ClockSkew
    assert words in met.message
    assert far_end.journal.count("refresh") == 1


@pytest.mark.parametrize("fault", [faults.silent(), faults.trickle(interval_s=0.05)], ids=["silent", "trickle"])
def test_every_put_has_a_deadline(far_end: FarEnd, fault: Fault) -> None:
    door = Door(far_end, deadline_s=0.5, read_timeout_s=5.0)
    met = door.refusal(fault)
    assert type(met) is Unreachable
    assert met.cause == "timeout"
    door.put()
    door.clients.reset()


def test_link_slower_than_the_deadline_gets_through_in_the_end(far_end: FarEnd) -> None:
    """8 KB at 8 KB/s does not fit half a second; each deadline that passes doubles the next."""
    door = Door(far_end, deadline_s=0.4, read_timeout_s=5.0)
    far_end.always("put", faults.slow_reading(8000))
    body, causes, receipt = os.urandom(8000), [], None
    while receipt is None and len(causes) < 5:
        try:
            receipt = door.put(body)
        except Unreachable as slow:
            causes.append(slow.cause)
    assert receipt is not None
    assert set(causes) == {"timeout"}
    assert far_end.objects[door.uri] == body
    door.clients.reset()


def test_one_layer_retries_and_it_is_not_botocore(door: Door, far_end: FarEnd) -> None:
    door.refusal(faults.answer(500))
    assert far_end.journal.count("put") == 1


# -- another implementation of S3 --------------------------------------------------------------------------------------


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_moto_proves_the_object_and_takes_it_again(moto: str, caplog: pytest.LogCaptureFixture) -> None:
    own = Credentials("AKIAEXAMPLE", "secret", "token", None, "us-east-1")
    s3 = boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    s3.create_bucket(Bucket="bucket")
    store = ObjectStore(CredentialKeeper(lambda _run_id: own), endpoint_url=moto)
    first = store.put("run", "s3://bucket/team/run/00000001-abc.csv.gz", BODY)
    again = store.put("run", "s3://bucket/team/run/00000001-abc.csv.gz", BODY)
    assert first == again
    held = s3.get_object(Bucket="bucket", Key="team/run/00000001-abc.csv.gz")
    assert held["Body"].read() == BODY
    assert held["ContentType"] == "application/gzip"
    held["Body"].close()
    with pytest.raises(SegmentRefused, match="404 NoSuchBucket"):
        store.put("run", "s3://no-such-bucket/team/run/00000001-abc.csv.gz", BODY)
    store.reset()
    s3.close()
