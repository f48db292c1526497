"""A port counts as closed only if our own program is there and hangs up on whoever shows no certificate of ours."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.server.process.seaweedfs import asks_for_certificate
from streaming.server.process.seaweedfs_config import CERTIFICATE, KEY, StorePlan, write_configuration


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return configured(tmp_path / "ours")


def configured(directory: Path) -> Path:
    directory.mkdir()
    write_configuration(directory, StorePlan.new("bucket", 1), host="127.0.0.1")
    return directory


def context(of: Path, *, wants: ssl.VerifyMode) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(of / CERTIFICATE, of / KEY)
    made.load_verify_locations(of / CERTIFICATE)
    made.verify_mode = wants
    return made


@contextlib.contextmanager
def listening(tls: ssl.SSLContext | None) -> Iterator[int]:
    """Answers one connection with a few bytes, if it gets so far."""

    def serve() -> None:
        plain = listener.accept()[0]
        with contextlib.suppress(OSError), tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            connection.recv(1)
        plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(20)


@pytest.mark.parametrize(
    ("whose", "wants", "is_closed"),
    [
        ("ours", ssl.CERT_REQUIRED, True),
        ("ours", ssl.CERT_NONE, False),
        ("ours", ssl.CERT_OPTIONAL, False),
        ("theirs", ssl.CERT_REQUIRED, False),
    ],
)
def test_only_our_certificate_and_only_when_it_is_asked_for(
    tmp_path: Path, ours: Path, whose: str, wants: ssl.VerifyMode, is_closed: bool
) -> None:
    shown = ours if whose == "ours" else configured(tmp_path / "theirs")
    with listening(context(shown, wants=wants)) as port:
        assert asks_for_certificate(port, (ours / CERTIFICATE).read_text()) is is_closed


def test_plain_text_and_nobody_are_not_closed(ours: Path) -> None:
    certificate = (ours / CERTIFICATE).read_text()
    with listening(None) as port:
        assert not asks_for_certificate(port, certificate)
    assert not asks_for_certificate(port, certificate)
