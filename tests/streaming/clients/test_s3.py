"""The door to S3: one object at a time, believed to be stored only with a proof, and only where we said."""

import gzip
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from streaming.clients import s3
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.s3 import ObjectStore
from streaming.errors import (
    BadArgument,
    Busy,
    ClockSkew,
    NotTheService,
    SegmentRefused,
    SegmentTooLarge,
    StreamError,
    Transient,
    Unreachable,
)
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.recorded import connect

pytestmark = pytest.mark.usefixtures("home")

BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)


class Door:
    """An object store with credentials for one registered run, and the URI of an object to put."""

    def __init__(self, far_end: FarEnd, **options: Any) -> None:
        self.far_end = far_end
        self.clients = connect(far_end, **options)
        registration, credentials = self.clients.service.register({}, idempotency_key="spool-1")
        self.run_id = registration.run_id
        self.clients.store.keep(self.run_id, credentials)
        self.uri = f"{registration.upload_uri_prefix}/00000001-abc.csv.gz"

    def put(self, body: bytes = BODY, uri: str | None = None) -> s3.Receipt:
        return self.clients.store.put(self.run_id, uri or self.uri, body)

    def refusal(self, fault: Fault | None = None) -> StreamError:
        if fault is not None:
            self.far_end.always("put", fault)
        with pytest.raises(StreamError) as caught:
            self.put()
        self.far_end.clear()
        assert str(caught.value).isprintable()
        assert not any(canary in str(caught.value) for canary in self.far_end.secrets())
        return caught.value


@pytest.fixture
def door(far_end: FarEnd) -> Iterator[Door]:
    made = Door(far_end)
    yield made
    made.clients.reset()


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


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403])
def test_expired_credentials_are_replaced_at_once(door: Door, far_end: FarEnd, status: int) -> None:
    far_end.store.expired_token_status = status
    far_end.expire_now()
    door.put()
    assert far_end.journal.count("refresh") == 1
    assert far_end.journal.count("put") == 2
    far_end.revoke()
    met = door.refusal()
    assert isinstance(met, Transient)
    assert met.cause == "credentials refused"
    assert 0 < (met.retry_after_s or 0) <= 30
    assert far_end.journal.count("refresh") == 1


def test_fresh_credentials_that_are_refused_too_are_an_outage(door: Door, far_end: FarEnd) -> None:
    met = door.refusal(faults.s3_error("AccessDenied"))
    assert isinstance(met, Transient)
    assert met.cause == "credentials refused"
    assert "below its prefix" in met.hint
    assert far_end.journal.count("refresh") == 1
    assert far_end.journal.count("put") == 3  # the last one without a condition: that may be what is denied


def test_unknown_keys_are_not_tried_without_a_condition(door: Door, far_end: FarEnd) -> None:
    assert isinstance(door.refusal(faults.s3_error("InvalidAccessKeyId")), NotTheService)
    assert far_end.journal.count("put") == 2


def test_region_of_the_credentials_is_signed(door: Door, far_end: FarEnd) -> None:
    far_end.grants.region = "eu-central-2"
    door.clients.store.keep(door.run_id, door.clients.service.refresh(door.run_id))
    door.put()
    assert "/eu-central-2/s3/" in far_end.journal.requests("put")[0].headers["authorization"]


def test_store_that_names_its_region_is_asked_again_in_it(door: Door, far_end: FarEnd) -> None:
    """Garage and MinIO may be of a region that nobody told us."""
    malformed = faults.error_xml(400, "AuthorizationHeaderMalformed", "expecting 'garage'", Region="garage")
    far_end.always(
        "put",
        Fault("wrong region", stores=False, answer=malformed),
        matching=lambda head: "/garage/s3/" not in head.headers["authorization"],
    )
    door.put()
    door.put(uri=door.uri.replace("00000001", "00000002"))
    assert set(far_end.objects) == {door.uri, door.uri.replace("00000001", "00000002")}
    assert far_end.journal.count("put") == 3  # asked once, known from then on
    assert far_end.journal.count() == 4  # and nothing else was asked


@pytest.mark.parametrize("status", [301, 307, 400])
def test_region_in_the_header_of_a_redirect_is_taken(door: Door, far_end: FarEnd, status: int) -> None:
    far_end.always(
        "put",
        faults.answer(status, b"", headers={"x-amz-bucket-region": "eu-north-1", "Location": "https://evil.example/"}),
        matching=lambda head: "/eu-north-1/s3/" not in head.headers["authorization"],
    )
    door.put()
    assert far_end.objects == {door.uri: BODY}


def test_store_that_names_ever_other_regions_is_an_outage_that_says_so(door: Door, far_end: FarEnd) -> None:
    answers = iter([f"xx-north-{number}" for number in range(1, 9)])

    def another(_: object) -> bool:
        rule.fault = faults.answer(301, b"", headers={"x-amz-bucket-region": next(answers)})
        return True

    rule = far_end.always("put", faults.answer(301), matching=another)
    met = door.refusal()
    assert isinstance(met, NotTheService)
    assert met.cause == "wrong region"
    assert far_end.journal.count("put") == 2


@pytest.mark.parametrize("uri", ["s3://Evil_Bucket/x/y", "s3://bucket/../x", "http://evil.example/x", "s3://b#@c/x/y"])
def test_odd_address_from_a_spool_is_never_used(door: Door, far_end: FarEnd, uri: str) -> None:
    with pytest.raises(NotTheService, match="unusable"):
        door.put(uri=uri)
    assert far_end.journal.count("put") == 0


def test_runs_do_not_share_credentials(far_end: FarEnd) -> None:
    clients = connect(far_end)
    used = []
    for name in ("one", "two"):
        registration, credentials = clients.service.register({}, idempotency_key=name)
        clients.store.keep(registration.run_id, credentials)
        clients.store.put(registration.run_id, f"{registration.upload_uri_prefix}/00000001-abc.csv.gz", BODY)
        used.append(far_end.journal.requests("put")[-1].access_key)
    assert used == [grant.access_key for grant in far_end.grants.all()]
    clients.reset()


# -- nothing of the surroundings ---------------------------------------------------------------------------------------


def test_ambient_aws_settings_are_ignored(far_end: FarEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FarEnd() as elsewhere:
        config_file = tmp_path / "config"
        config_file.write_text(
            f"[default]\nregion = xx-evil-1\nendpoint_url = {elsewhere.s3_endpoint_url}\nca_bundle = /nonexistent\n"
            "s3 =\n    use_accelerate_endpoint = true\n    addressing_style = virtual\n"
        )
        for name, text in {
            "AWS_PROFILE": "nonexistent",
            "AWS_DEFAULT_PROFILE": "nonexistent",
            "AWS_CONFIG_FILE": str(config_file),
            "AWS_SHARED_CREDENTIALS_FILE": str(config_file),
            "AWS_ACCESS_KEY_ID": "AKIAAMBIENT",
            "AWS_SECRET_ACCESS_KEY": "ambient",
            "AWS_SESSION_TOKEN": "ambient",
            "AWS_DEFAULT_REGION": "xx-evil-1",
            "AWS_REGION": "xx-evil-1",
            "AWS_ENDPOINT_URL": elsewhere.s3_endpoint_url,
            "AWS_ENDPOINT_URL_S3": elsewhere.s3_endpoint_url,
            "AWS_CA_BUNDLE": "/nonexistent",
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_USE_DUALSTACK_ENDPOINT": "true",
            "AWS_RETRY_MODE": "nonsense",
            "AWS_MAX_ATTEMPTS": "9",
            "AWS_DATA_PATH": str(tmp_path),
            "AWS_REQUEST_CHECKSUM_CALCULATION": "nonsense",
            "AWS_DEFAULTS_MODE": "nonsense",
            "HTTP_PROXY": elsewhere.api_url,
            "http_proxy": elsewhere.api_url,
        }.items():
            monkeypatch.setenv(name, text)
        door = Door(far_end)
        door.put()
        door.clients.reset()
        assert elsewhere.journal.count() == 0
    (entry,) = far_end.journal.requests("put")
    assert entry.access_key == far_end.grants.all()[0].access_key
    assert "/us-east-1/s3/" in entry.headers["authorization"]


def test_ambient_settings_do_not_move_the_address_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    client = s3._Client("eu-central-1", None, 1.0)
    assert client._client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"


@pytest.mark.parametrize("url", ["http://s3.example", "http://10.1.2.3:9000", "ftp://127.0.0.1", "127.0.0.1:9000"])
def test_unsafe_endpoint_is_refused(url: str) -> None:
    with pytest.raises(BadArgument):
        ObjectStore(CredentialKeeper(lambda _run_id: no_credentials()), endpoint_url=url)


def no_credentials() -> Credentials:
    return Credentials("none", "none", "none", None)


def test_debug_log_shows_no_key(door: Door, far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        door.put()
    assert not any(canary in caplog.text for canary in far_end.secrets())


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
