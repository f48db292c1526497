"""How the server speaks to its store: certificates, what is told of a failure, and what is in no URL."""

import logging
from pathlib import Path

import pytest

from streaming.server.errors import StoreUnavailable
from streaming.server.settings import S3Settings
from streaming.server.storage.objects import Bucket
from tests.support.far_end import FarEnd


def settings(far_end: FarEnd) -> S3Settings:
    return S3Settings("rows", "", "AKIAADMIN", "canary-secret", far_end.s3_endpoint_url)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_private_certificates_reach_reading_and_listing(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with FarEnd(tls=True) as far_end:
        monkeypatch.setenv(variable, str(far_end.ca_file))
        with Bucket(settings(far_end)) as store:
            for call in (lambda: store.read("runs/1/a"), lambda: list(store.list("runs/"))):
                with pytest.raises(
                    StoreUnavailable
                ) as met:  # the fake store answers no reads: the handshake is what counts
                    call()
                assert met.value.code == "AccessDenied"


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-ca.pem"))
    with FarEnd(tls=True) as far_end, pytest.raises(StoreUnavailable, match="which does not exist"):
        Bucket(settings(far_end))


def test_no_signature_is_in_a_url_a_log_or_an_error(s3: S3Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Bucket(s3) as store:
        store.put("runs/1/a b+c.csv.gz", b"rows")
        assert store.read("runs/1/a b+c.csv.gz") == b"rows"
        with pytest.raises(StoreUnavailable) as missing:
            store.read("runs/1/none")
    assert missing.value.code == "NoSuchKey"
    with FarEnd() as gone:
        gone.down("s3")
        with Bucket(settings(gone)) as store, pytest.raises(StoreUnavailable) as away:
            store.read("runs/1/a")
    for text in (caplog.text, str(missing.value), str(away.value)):
        assert "Signature" not in text
        assert "X-Amz" not in text
