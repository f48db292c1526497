"""Whoever reaches the API without a token: bodies that are dear to read, requests that never end."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from streaming.server import EmbeddedServer
from streaming.server.api.security_headers import HEADERS
from tests.security.conftest import Tried

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("whole-server")]

MIB = 2**20
CROWD = 700
SLOW_S = 10  # each of these took from 15 to 75 s, with everybody else waiting; here it takes milliseconds


def _keys(count: int) -> bytes:
    return b"{" + b",".join(b'"key%d":%d' % (number, number) for number in range(count)) + b"}"


DEAR_BODIES = {
    "8 MiB of empty gzip members": ({"Content-Encoding": "gzip"}, gzip.compress(b"") * (8 * MIB // 20)),
    "6 MB of unknown keys": ({}, _keys(350_000)),
    "a gzip bomb of 8 MiB": ({"Content-Encoding": "gzip"}, gzip.compress(bytes(8 * 1000 * MIB // 1000))),
    "4 million lists": ({}, b"[" * 4 * MIB),
    "a list of 2 million numbers": ({}, b"[" + b"1," * (2 * MIB) + b"1]"),
    "2 million empty strings": ({}, b"[" + b'"",' * (2 * MIB) + b'""]'),
    "unknown keys, small": ({}, _keys(500)),
    "deep, small": ({}, b'{"token":' * 800 + b"1" + b"}" * 800),
    "deep, small, in UTF-16": ({}, ('{"token":' * 400 + "1" + "}" * 400).encode("utf-16")),
    "gzip members, small": ({"Content-Encoding": "gzip"}, gzip.compress(b"") * 400),
}


@pytest.mark.parametrize("name", DEAR_BODIES)
def test_a_dear_body_is_refused_at_once_and_holds_nobody_up(
    whole_server: EmbeddedServer, name: str, tried: Tried
) -> None:
    more, body = DEAR_BODIES[name]
    headers = {"Content-Type": "application/json", **more}
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_post, f"{whole_server.api_url}/session", body, headers)
        health = requests.get(f"{whole_server.api_url}/health", timeout=SLOW_S)
        status = sending.result()
    assert health.ok
    assert status in {400, 413, 422, None}  # None: it hung up before it had read all, which a client may see so
    assert time.monotonic() - started < SLOW_S
    tried("bodies without a token", 1)


def test_a_tenants_dear_body_is_refused_as_fast(whole_server: EmbeddedServer, tried: Tried) -> None:
    for name, (more, body) in DEAR_BODIES.items():
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {whole_server.token}",
            **more,
        }
        started = time.monotonic()
        assert _post(f"{whole_server.api_url}/runs", body, headers) in {400, 413, 422, None}, name
        assert time.monotonic() - started < SLOW_S, name
    tried("bodies with a token", len(DEAR_BODIES))


def test_a_crowd_of_half_sent_requests_keeps_nobody_out_and_is_sent_away(
    whole_server: EmbeddedServer, tried: Tried
) -> None:
    with contextlib.ExitStack() as crowd:
        connections = [crowd.enter_context(connection) for connection in _half_sent(whole_server, CROWD)]
        assert requests.get(f"{whole_server.api_url}/health", timeout=SLOW_S).ok
        deadline = time.monotonic() + 60
        for connection in connections:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b"", "it is answered, though it asked for nothing yet"
    tried("half-sent requests", CROWD)


@pytest.mark.parametrize(
    "request_line", [b"GET /health HTTP/9.9", b"nonsense", b"GET /%ff%00 HTTP/1.1", b"GET / HTTP/1.1\r\nHost : x"]
)
def test_an_answer_to_nonsense_has_the_security_headers_too(whole_server: EmbeddedServer, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", whole_server.settings.port), timeout=SLOW_S) as connection:
        connection.sendall(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode().lower()
    assert all(f"{name}: {value}".lower() in answer for name, value in HEADERS.items()), answer


def _half_sent(server: EmbeddedServer, count: int) -> Iterator[socket.socket]:
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", server.settings.port), timeout=SLOW_S)
        connection.sendall(b"POST /session HTTP/1.1\r\nHost: x\r\nX-Number: %d" % number)
        yield connection


def _post(url: str, body: bytes, headers: dict[str, str]) -> int | None:
    try:
        return requests.post(url, data=body, headers=headers, timeout=120).status_code
    except requests.ConnectionError:
        return None
