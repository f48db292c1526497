"""A server that is none, or not its user's any more: the token goes nowhere else, and what came is told in words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from streaming.errors import NotTheService
from streaming.read.remote import ServerSource


class _Answering(BaseHTTPRequestHandler):
    status = 200
    headers_sent: tuple[tuple[str, str], ...] = ()
    body = b""
    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        self.send_response(self.status)
        for name, value in (*self.headers_sent, ("Content-Length", str(len(self.body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Start = Callable[..., tuple[str, list[str | None]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with one answer for all; its address, and the tokens that it was shown."""
    servers: list[ThreadingHTTPServer] = []

    def started(status: int = 200, body: bytes = b"", **headers: str) -> tuple[str, list[str | None]]:
        asked: list[str | None] = []
        answering = {"status": status, "body": body, "headers_sent": tuple(headers.items()), "asked": asked}
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Answering,), answering)))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", asked

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_is_taken_to_no_other_place(start: Start, status: int) -> None:
    elsewhere, asked_elsewhere = start(body=b'{"runs": []}')
    url, asked = start(status, Location=f"{elsewhere}/runs")
    with pytest.raises(NotTheService, match=f"answers {status}"):
        ServerSource(url, "a-token").runs()
    assert asked == ["Bearer a-token"]
    assert asked_elsewhere == []


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"runs": [{"run_id": 5}]}', b'{"runs": 1}', b"[" * 200_000], ids=range(6)
)
def test_what_is_no_list_of_runs_is_told_in_words(start: Start, body: bytes) -> None:
    url, _ = start(body=body)
    with pytest.raises(NotTheService, match="something else than a list of runs"):
        ServerSource(url, "a-token").runs()
