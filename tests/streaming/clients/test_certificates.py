"""Which authorities are trusted, by real TLS handshakes with the clients of the service and of S3."""

from pathlib import Path

import pytest

from streaming.clients.certificates import VARIABLES
from streaming.errors import Unreachable
from tests.support.far_end import FarEnd
from tests.support.recorded import connect

pytestmark = pytest.mark.usefixtures("home")


def deliver_one_object(far_end: FarEnd) -> None:
    """Register and put: a handshake with each of the two."""
    clients = connect(far_end)
    try:
        registration, credentials = clients.service.register({}, idempotency_key="spool-1")
        clients.store.keep(registration.run_id, credentials)
        clients.store.put(registration.run_id, f"{registration.upload_uri_prefix}/00000001-abc.csv.gz", b"body")
    finally:
        clients.reset()


@pytest.fixture
def own_authority(monkeypatch: pytest.MonkeyPatch) -> FarEnd:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return FarEnd(tls=True)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("others", ["unset", "name others"])
def test_one_variable_is_enough_for_service_and_store(
    own_authority: FarEnd, monkeypatch: pytest.MonkeyPatch, variable: str, others: str
) -> None:
    with own_authority as far_end, FarEnd(tls=True) as another:
        for name in VARIABLES if others == "name others" else ():
            monkeypatch.setenv(name, str(another.ca_file))
        monkeypatch.setenv(variable, str(far_end.ca_file))
        deliver_one_object(far_end)
        assert far_end.journal.count("put") == 1


def test_folder_of_certificates_is_taken(own_authority: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_authority as far_end:
        assert far_end.ca_file is not None
        folder = far_end.ca_file.parent / "authorities"
        folder.mkdir()
        far_end.ca_file.rename(folder / "own.pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))
        deliver_one_object(far_end)


def test_without_any_a_private_authority_is_refused(own_authority: FarEnd) -> None:
    with own_authority as far_end:
        with pytest.raises(Unreachable, match="SSL_CERT_FILE") as caught:
            deliver_one_object(far_end)
        assert caught.value.cause == "TLS"


@pytest.mark.parametrize("variable", VARIABLES)
def test_file_that_is_not_there_is_named(
    own_authority: FarEnd, monkeypatch: pytest.MonkeyPatch, variable: str, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "no-ca.pem"))
    with own_authority as far_end:
        with pytest.raises(Unreachable, match=f"{variable} names {tmp_path}/no-ca.pem, which does not exist"):
            deliver_one_object(far_end)
        assert far_end.journal.count() == 0


def test_without_tls_no_certificate_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    with FarEnd() as far_end:
        deliver_one_object(far_end)
