"""A server that is none, or not its user's any more: the token goes nowhere else, and what came is told in words."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from streaming.errors import BadArgument, NotTheService, StreamError, Unauthorized, Unreachable
from streaming.read import remote
from streaming.read.remote import ServerSource
from streaming.read.runs import runs
from tests.support.other_user import Nobody, nobody

__all__ = ["nobody"]


class _Answering(BaseHTTPRequestHandler):
    status = 200
    headers_sent: tuple[tuple[str, str], ...] = ()
    body = b""
    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        self.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **dict(self.headers_sent)}.items():
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
    with pytest.raises(NotTheService, match="something other than a list of runs"):
        ServerSource(url, "a-token").runs()


LINE = dict.fromkeys(("job_name", "project_name", "stage_name", "task_name", "team", "tags", "host")) | {
    "run_id": "1",
    "state": "finished",
    "started_at": None,
    "ended_at": None,
    "duration_s": 1.5,
    "exit_code": 0,
    "row_count": 3,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [("row_count", "x"), ("row_count", 2**64), ("exit_code", [1]), ("run_id", {}), ("duration_s", "1"), ("state", 7)],
)
def test_a_run_with_values_of_other_kinds_is_told_in_words(start: Start, name: str, value: object) -> None:
    url, _ = start(body=json.dumps({"runs": [LINE]}).encode())
    assert [run.row_count for run in runs(url, token="a-token").facts] == [3]
    url, _ = start(body=json.dumps({"runs": [LINE | {name: value}]}).encode())
    with pytest.raises(NotTheService, match="something other than a list of runs"):
        ServerSource(url, "a-token").runs()


@pytest.mark.parametrize("is_squeezed", [False, True])
def test_an_answer_without_end_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch, is_squeezed: bool) -> None:
    """300 MB of blanks are a small gzip: what counts is what would have to be kept."""
    monkeypatch.setattr(remote, "_PAGE", remote._Bound(3 * 2**20, whole_s=60))
    body = b" " * 2**23
    headers = {"Content-Encoding": "gzip"} if is_squeezed else {}
    url, _ = start(body=gzip.compress(body) if is_squeezed else body, **headers)
    with pytest.raises(NotTheService, match="more than 3,145,728 bytes"):
        ServerSource(url, "a-token").runs()


def test_an_answer_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAGE", remote._Bound(2**20, whole_s=0.5))
    over = threading.Event()

    def drip() -> None:
        connection = listener.accept()[0]
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with pytest.raises(Unreachable, match="no complete answer within"):
                ServerSource(f"http://127.0.0.1:{listener.getsockname()[1]}", "a-token").runs()
        finally:
            over.set()
            dripping.join()


REFUSALS: dict[str, tuple[int, bytes, dict[str, str], type[StreamError], str]] = {
    "the token": (401, b"", {}, Unauthorized, "refuses the token"),
    "with its reason": (503, b'{"detail": "being moved"}', {}, NotTheService, "503: being moved"),
    "without words": (500, b"<html>", {}, NotTheService, "500: no words"),
    "cut off": (200, gzip.compress(b"{}")[:12], {"Content-Encoding": "gzip"}, Unreachable, "does not answer"),
    "broken": (200, b"\x1f\x8b\x08\0" + b"\xff" * 30, {"Content-Encoding": "gzip"}, Unreachable, "does not answer"),
    "shorter than told": (200, b"{", {"Content-Length": "9", "Connection": "close"}, Unreachable, "does not answer"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_and_torn_answers_are_told_in_words(start: Start, kind: str) -> None:
    status, body, headers, error, words = REFUSALS[kind]
    url, _ = start(status, body, **headers)
    with pytest.raises(error, match=words):
        ServerSource(url, "a-token").runs()


def test_without_a_token_nothing_is_asked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENTINEL_API_TOKEN", raising=False)
    url, asked = start()
    with pytest.raises(BadArgument, match="asks for a token"):
        ServerSource(url, None).runs()
    assert asked == []


def test_another_users_server_is_shown_no_token(nobody: Nobody) -> None:
    listens = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        " s.settimeout(0.1); sys.stdin.readline(); print('heard', s.accept()[0].recv(9999), flush=True)"
    )
    with nobody.start_python(listens) as program:
        url = f"http://127.0.0.1:{int(program.read_line())}"
        with pytest.raises(NotTheService, match="another user"):
            ServerSource(url, "a-token").runs()
        program.say("look")
        assert b"heard" not in program.wait().stdout
    with pytest.raises(Unreachable):
        ServerSource(url, "a-token").runs()
