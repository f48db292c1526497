"""The door to S3: whose credentials and which region it signs with, and that nothing of the surroundings moves it."""

import logging
from pathlib import Path

import pytest

from streaming.clients import s3
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.s3 import ObjectStore
from streaming.errors import BadArgument, NotTheService, Transient
from tests.streaming.clients.doors import BODY, Door
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.recorded import connect

pytestmark = pytest.mark.usefixtures("home")


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
