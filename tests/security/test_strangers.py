"""Whoever reaches the API without a token: bodies that are dear to read, requests that never end."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from streaming.server import EmbeddedServer
from streaming.server.api.headers import HEADERS
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


@pytest.mark.parametrize("value", ["\\\\", "\\101", '\\"', ";", "a=;"], ids=repr)
def test_a_dear_cookie_holds_nobody_up(whole_server: EmbeddedServer, value: str, tried: Tried) -> None:
    """15 s on the Pythons whose reader of quoted cookies is quadratic, with everybody else waiting."""
    quoted = value * (30_000 // len(value))
    headers = {"Cookie": f'tracker_stream_session_{whole_server.settings.port}="{quoted}"'}
    started = time.monotonic()
    for method in ("GET", "DELETE"):
        answer = requests.request(method, f"{whole_server.api_url}/session", headers=headers, timeout=120)
        assert answer.status_code in {401, 204}
    assert time.monotonic() - started < SLOW_S
    tried("cookies without a session", 2)


def test_a_crowd_of_half_sent_requests_keeps_nobody_out_and_is_sent_away(
    whole_server: EmbeddedServer, tried: Tried
) -> None:
    with contextlib.ExitStack() as crowd:
        s3_port = int((whole_server.s3_endpoint_url or "").rpartition(":")[2])
        connections = [crowd.enter_context(each) for each in _half_sent(whole_server.settings.port, CROWD)]
        connections += [crowd.enter_context(each) for each in _half_sent(s3_port, 1)]
        assert requests.get(f"{whole_server.api_url}/health", timeout=SLOW_S).ok
        deadline = time.monotonic() + 60
        for connection in connections:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b"", "it is answered, though it asked for nothing yet"
    tried("half-sent requests", CROWD)


def test_requests_that_break_off_do_not_fill_the_log(whole_server: EmbeddedServer, tried: Tried) -> None:
    head = b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", whole_server.settings.port), timeout=SLOW_S) as connection:
            connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 100")
    assert requests.get(f"{whole_server.api_url}/health", timeout=SLOW_S).ok
    assert "ClientDisconnect" not in whole_server.directory.api_log.read_text()
    tried("requests that break off", 20)


def test_what_a_presigned_address_holds_is_in_no_file(whole_server: EmbeddedServer, tried: Tried) -> None:
    signed = "X-Amz-Signature=canary-of-an-address&X-Amz-Security-Token=canary-of-an-address"
    places = (whole_server.api_url, f"{whole_server.s3_endpoint_url}/{whole_server.bucket}")
    for method in ("GET", "PUT", "DELETE"):
        for place in places:
            answer = requests.request(method, f"{place}/runs/x?{signed}", timeout=SLOW_S, allow_redirects=False)
            assert answer.status_code >= 400
    files = [path for path in whole_server.directory.path.rglob("*") if path.is_file()]
    assert whole_server.directory.api_log in files
    assert [path for path in files if b"canary-of-an-address" in path.read_bytes()] == []
    tried("presigned addresses", 6)


@pytest.mark.parametrize(
    "request_line", [b"GET /health HTTP/9.9", b"nonsense", b"GET /%ff%00 HTTP/1.1", b"GET / HTTP/1.1\r\nHost : x"]
)
def test_an_answer_to_nonsense_has_the_security_headers_too(whole_server: EmbeddedServer, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", whole_server.settings.port), timeout=SLOW_S) as connection:
        connection.sendall(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode().lower()
    assert all(f"{name}: {value}".lower() in answer for name, value in HEADERS.items()), answer


def _half_sent(port: int, count: int) -> Iterator[socket.socket]:
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=SLOW_S)
        connection.sendall(b"POST /session HTTP/1.1\r\nHost: x\r\nX-Number: %d" % number)
        yield connection


def _post(url: str, body: bytes, headers: dict[str, str]) -> int | None:
    try:
        return requests.post(url, data=body, headers=headers, timeout=120).status_code
    except requests.ConnectionError:
        return None


def _wrong_authorizations(token: str) -> list[bytes]:
    """Everything that is nearly the token, or nearly says that none is needed."""
    good = token.encode()
    changed = [bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]]) for at in range(len(good))]
    cut = [good[:length] for length in range(0, len(good), 5)]
    twisted = [
        good.upper(),
        good.lower(),
        good[::-1],
        good + b"x",
        b"x" + good,
        good + b"," + good,
        good[4:],
        good + b"%00",
    ]
    odd = [
        b"*",
        b"%",
        b"' OR 1=1 --",
        b"null",
        b"undefined",
        b"../token",
        b"\xff\xfe",
        b"a" * 5000,
        b"tst_",
        b"{}",
        b"true",
    ]
    schemes = [scheme + b" " + good for scheme in (b"Basic", b"Token", b"Digest", b"Bearer:", b"Bearerx", b"", b"AWS4")]
    return [
        *(b"Bearer " + text for text in (*changed, *cut, *twisted, *odd)),
        *schemes,
        good,
        b"Bearer",
        b"Bearer\t" + good,
    ]


def test_nothing_but_the_token_is_the_token(whole_server: EmbeddedServer, tried: Tried) -> None:
    values = _wrong_authorizations(whole_server.token)
    connection = http.client.HTTPConnection("127.0.0.1", whole_server.settings.port, timeout=SLOW_S)
    for value in values:
        for method, path in (("GET", "/runs"), ("POST", "/runs"), ("GET", "/session")):
            connection.request(method, path, headers={"Authorization": value})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 401, (method, path, value)
    connection.close()
    tried("bearers that are none", 3 * len(values))


def test_no_other_place_for_a_token_or_a_session_opens_anything(whole_server: EmbeddedServer, tried: Tried) -> None:
    token, port = whole_server.token, whole_server.settings.port
    headers = [
        {name: value}
        for name in ("X-Authorization", "Proxy-Authorization", "X-Api-Key", "X-Forwarded-User", "Remote-User", "Token")
        for value in (token, f"Bearer {token}")
    ]
    name = f"tracker_stream_session_{port}"
    cookies = [token, "", "' OR ''='", "%00", "../../server.db", "null", "a" * 3000, "uid 0", "\\"]
    headers += [{"Cookie": f"{name}={value}"} for value in cookies]
    headers += [{"Cookie": f"tracker_stream_session={token}"}, {"Cookie": f"{name}=;{name}={token}"}]
    for header in headers:
        assert requests.get(f"{whole_server.api_url}/runs", headers=header, timeout=SLOW_S).status_code == 401, header
    for query in (f"token={token}", f"access_token={token}", f"authorization=Bearer%20{token}"):
        assert requests.get(f"{whole_server.api_url}/runs?{query}", timeout=SLOW_S).status_code == 401, query
    tried("other places for a token", len(headers) + 3)


S3_PATHS = [
    "",
    "/{bucket}",
    "/{bucket}/",
    "/{bucket}/runs/x/1",
    "/{bucket}/.probe",
    "/.system",
    "/buckets",
    "/../etc/iam",
]
S3_QUERIES = [
    "",
    "?list-type=2",
    "?acl",
    "?policy",
    "?uploads",
    "?location",
    "?versions",
    "?cors",
    "?tagging",
    "?delete",
]
S3_ACTIONS = [
    "AssumeRole",
    "AssumeRoleWithWebIdentity",
    "GetSessionToken",
    "GetCallerIdentity",
    "CreateUser",
    "ListUsers",
]
S3_ACTIONS += ["CreateAccessKey", "ListAccessKeys", "PutUserPolicy", "GetUser", "DeleteUser", "ListRoles", "UpdateUser"]


def test_s3_does_nothing_without_a_signature(whole_server: EmbeddedServer, tried: Tried) -> None:
    port = int((whole_server.s3_endpoint_url or "").rpartition(":")[2])
    key = whole_server.settings.s3.access_key
    forged = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host, Signature={'0' * 64}",
        "X-Amz-Date": "20260101T000000Z",
    }
    old = {"Authorization": f"AWS {key}:AAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    targets = [path.format(bucket=whole_server.bucket) + query for path in S3_PATHS for query in S3_QUERIES]
    targets += [f"/?Action={action}&Version=2010-05-08" for action in S3_ACTIONS]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOW_S)
    done = 0
    for headers in ({}, forged, old):
        for verb in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            for target in targets:
                connection.request(verb, target or "/", headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status >= 400, (verb, target, headers)
                done += 1
    connection.close()
    tried("S3 and STS without a signature", done)
