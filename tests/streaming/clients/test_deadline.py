"""The wall-clock bound on a request: real sockets, in any thread."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from streaming.clients.deadline import DeadlinePassed, deadline
from tests.support.processes import eventually

LONG_S = 30.0


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(LONG_S)


def silence(connection: socket.socket) -> None:
    """Hears everything, says nothing, until the other end goes."""
    while connection.recv(4096):
        pass


def drip(connection: socket.socket) -> None:
    """A byte of a header every few milliseconds, for ever."""
    connection.recv(4096)
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        return


def endless_without_length(connection: socket.socket) -> None:
    """An answer that ends with its connection: cut, it looks whole."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
    silence(connection)


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("serve", [silence, drip, endless_without_length])
def test_request_ends_with_its_deadline_whatever_the_peer_does(serve: Callable[[socket.socket], None]) -> None:
    began_at = time.monotonic()
    with peer(serve) as port, pytest.raises(DeadlinePassed, match=r"within 0\.2 s"), deadline(0.2):
        get(port)
    assert time.monotonic() - began_at < LONG_S / 2


def test_deadlines_of_threads_are_their_own() -> None:
    ended: list[str] = []

    def hang(name: str, seconds: float) -> None:
        with peer(silence) as port:
            try:
                with deadline(seconds):
                    get(port)
            except DeadlinePassed:
                ended.append(name)

    threads = [threading.Thread(target=hang, args=("late", 1.5)), threading.Thread(target=hang, args=("early", 0.1))]
    for thread in threads:
        thread.start()
    eventually(lambda: ended, LONG_S)
    assert ended == ["early"]
    for thread in threads:
        thread.join(LONG_S)
    assert ended == ["early", "late"]


def ask_again(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/")
    connection.getresponse()


def test_connection_that_is_used_again_is_bounded_again() -> None:
    def answer_once(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        silence(connection)

    with peer(answer_once) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
        with deadline(LONG_S):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hi"
        with pytest.raises(DeadlinePassed), deadline(0.2):
            ask_again(connection)
        connection.close()


def late(port: int) -> None:
    with deadline(0.0):
        time.sleep(0.05)
        get(port)


def test_too_late_to_begin() -> None:
    with peer(lambda _connection: None) as port:
        with pytest.raises(DeadlinePassed):
            late(port)
        socket.create_connection(("127.0.0.1", port)).close()


def test_descriptors_and_timers_do_not_pile_up() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with peer(serve) as port, deadline(LONG_S):
            assert get(port) == b"hi"
    assert len(os.listdir("/proc/self/fd")) <= before
    eventually(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))


def test_error_of_the_block_is_its_own_before_the_deadline() -> None:
    with pytest.raises(KeyError), deadline(LONG_S):
        raise KeyError("mine")


def test_hook_outlives_its_module() -> None:
    """At the interpreter's exit a module's names become None, while others' last lookups and requests are still told of."""
    program = """
import socket
from streaming.clients import deadline
with deadline.deadline(60.0):
    pass
vars(deadline)["_watched"] = None
print(socket.getaddrinfo("127.0.0.1", 1)[0][4][0])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("127.0.0.1\n", "")
