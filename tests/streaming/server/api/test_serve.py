"""How long a client may dawdle at each part of a request, and how many connections there are."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from streaming.server.api.serve import ConnectionLimits, bounded
from tests.support.other_user import Nobody, nobody

__all__ = ["nobody"]

LIMITS = ConnectionLimits(connections=8, head_timeout_s=0.5, body_timeout_s=0.5, taking_timeout_s=0.5)
LARGE = b"x" * 2**20
DEADLINE_S = 60


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """The length of the body that was sent, 64 MiB to whoever asks for /large, nothing to whoever asks for /never."""
    length = 0
    while scope["path"] == "/never":
        await asyncio.sleep(3600)
    while (message := await receive()).get("more_body") or message.get("body"):
        length += len(message["body"])
        if not message.get("more_body"):
            break
    parts = [LARGE] * 64 if scope["path"] == "/large" else [str(length).encode()]
    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.contextmanager
def serving(limits: ConnectionLimits) -> Iterator[int]:
    """The port of a server with these limits."""
    listener = socket.create_server(("127.0.0.1", 0))
    http = bounded(limits)
    config = uvicorn.Config(answer, http=http, ws="none", lifespan="off", log_level="error", timeout_keep_alive=3600)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(DEADLINE_S)
        listener.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(LIMITS) as port:
        yield port


@contextlib.contextmanager
def connected(port: int, sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(sent)
        yield connection


def is_hung_up_on(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "chunks without an end"],
)
def test_half_a_request_is_hung_up_on(port: int, sent: bytes) -> None:
    with connected(port, sent) as connection:
        assert is_hung_up_on(connection)


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"POST / HTTP/1.1\r\nContent-Length: 999\r\nHost: x\r\n\r\n"]
)
def test_a_byte_now_and_then_buys_no_time(port: int, head: bytes) -> None:
    deadline = time.monotonic() + DEADLINE_S
    with connected(port, head) as connection:
        connection.settimeout(0.1)
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if is_hung_up_on(connection):
                    return
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x")
    pytest.fail("it is still listened to")


def test_an_answer_that_nobody_takes_is_given_up(port: int) -> None:
    with connected(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)  # and hung up, or reset: not that there is something to read
        assert poll.poll(DEADLINE_S * 1000)


def test_whole_requests_on_one_connection_are_all_answered(port: int) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n123"
    with connected(port, b"") as connection:
        for _ in range(5):
            connection.sendall(request)
            assert connection.recv(65536).endswith(b"3") or connection.recv(65536).endswith(b"3")


CROWDS = {
    "half a head": b"GET / HTTP/1.1\r\n",
    "half a body": b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    "a pause after a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an answer that is not taken": b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", CROWDS.values(), ids=list(CROWDS))
def test_the_one_that_keeps_us_waiting_longest_makes_room(sent: bytes) -> None:
    """Each of the crowd has all the time in the world: only making room lets another one in."""
    patient = ConnectionLimits(8, head_timeout_s=3600, body_timeout_s=3600, taking_timeout_s=3600)
    with serving(patient) as port, contextlib.ExitStack() as crowd:
        for _ in range(patient.connections + 4):
            one = crowd.enter_context(connected(port, sent))
            if sent.endswith(b"\r\n\r\n"):  # the crowd is complete only when each has been heard
                assert one.recv(1) == b"H"
        last = crowd.enter_context(connected(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert last.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_user_who_asks_for_more_and_more_keeps_no_other_user_out(nobody: Nobody) -> None:
    """Whole requests that are served for long: nobody waits for their client, so that only their number tells."""
    patient = ConnectionLimits(8, head_timeout_s=3600, body_timeout_s=3600, taking_timeout_s=3600)
    with serving(patient) as port, nobody.start_python(CROWD, str(port), str(3 * patient.connections)) as crowd:
        assert crowd.read_line() == "there"
        with connected(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as mine:
            assert mine.recv(65536).startswith(b"HTTP/1.1 200")
        crowd.say("over")
        crowd.wait(DEADLINE_S)


CROWD = """
import contextlib, socket, sys
port, count = map(int, sys.argv[1:])
crowd = []
for _ in range(count):
    crowd.append(socket.create_connection(("127.0.0.1", port)))
    with contextlib.suppress(ConnectionError):
        crowd[-1].sendall(b"GET /never HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print("there", flush=True)
sys.stdin.readline()
"""
