"""A wall-clock bound on a request, in any thread: when it has passed, the request's sockets are shut down.

Library timeouts bound one read; a peer that sends a byte a second passes them for ever. Nothing else ends a thread that
waits in `recv`. Which sockets a request uses is told by Python's own audit events: `socket.connect` when a connection
begins (its TLS handshake, too, can be dripped), `http.client.send` when one is used again. Looking a name up in DNS is
bounded by the resolver alone.

The same events tell who waits for a network that may swallow everything, while the request itself is still patient.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class DeadlinePassed(TimeoutError):
    """The call took longer than allowed. An OSError, so that what it interrupts closes what it has opened."""


class Unanswered:
    """The requests of any threads that have no connection yet."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # by thread
        self.connected_at = float("-inf")  # when one of them got its connection, on the monotonic clock

    @property
    def since(self) -> float:
        """When the oldest of them began, on the monotonic clock; infinity if there is none."""
        return min([*self._since.values()], default=float("inf"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what this thread's requests inside the block wait for."""
        _listen_to_audit_events()
        outer, _watched.unanswered = _watched.unanswered, self
        try:
            yield
        finally:
            _watched.unanswered = outer
            self.end()

    def begin(self) -> None:
        self._since.setdefault(threading.get_ident(), time.monotonic())

    def connected(self) -> None:
        """This thread's request is sent. Over a connection of before, that says nothing of the network."""
        if threading.get_ident() in self._since:
            self.connected_at = time.monotonic()
            self.end()

    def end(self) -> None:
        self._since.pop(threading.get_ident(), None)


class _Watched(threading.local):
    """What this thread's request is bounded and watched by."""

    deadline: _Deadline | None = None
    unanswered: Unanswered | None = None


class _Deadline:
    """Copies of the descriptors that one request uses: a copy never becomes somebody else's file."""

    def __init__(self, seconds: float) -> None:
        self.text = f"no complete answer within {seconds:g} s"
        self.has_passed = False
        self._copies: dict[int, int] = {}  # by the socket's inode
        self._lock = threading.Lock()

    def watch(self, connection: socket.socket) -> None:
        """Raises DeadlinePassed if it is too late to begin."""
        with self._lock:
            if self.has_passed:
                raise DeadlinePassed(self.text)
            inode = os.fstat(connection.fileno()).st_ino
            if inode not in self._copies:
                self._copies[inode] = os.dup(connection.fileno())

    def cut(self) -> None:
        with self._lock:
            self.has_passed = True
            for copy in self._copies.values():
                with suppress(OSError), socket.socket(fileno=os.dup(copy)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for copy in self._copies.values():
                os.close(copy)
            self._copies.clear()


_watched = _Watched()
_hook_lock = threading.Lock()
_is_hooked = False


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Make the block's requests fail after `seconds`, and raise DeadlinePassed then, whatever came out of the block."""
    _listen_to_audit_events()
    watched = _Deadline(seconds)
    timer = threading.Timer(seconds, watched.cut)
    timer.daemon = True
    timer.start()
    outer, _watched.deadline = _watched.deadline, watched
    try:
        yield
    except Exception as error:
        if watched.has_passed:
            raise DeadlinePassed(watched.text) from error
        raise
    finally:
        timer.cancel()
        _watched.deadline = outer
        watched.close()
    if watched.has_passed:  # an answer that ends with its connection would pass for a whole one
        raise DeadlinePassed(watched.text)


def _listen_to_audit_events() -> None:
    """Once for the process: a hook cannot be taken back. It costs other events a comparison."""
    global _is_hooked
    with _hook_lock:
        if not _is_hooked:
            sys.addaudithook(_on_event)
            _is_hooked = True


def _on_event(event: str, arguments: tuple[Any, ...], watched: _Watched = _watched) -> None:
    """`watched` is an argument because a hook outlives its module: at the interpreter's exit the name is None."""
    if watched.unanswered is not None:
        if event in ("socket.getaddrinfo", "socket.connect"):
            watched.unanswered.begin()
        elif event == "http.client.send":
            watched.unanswered.connected()
    if event in ("socket.connect", "http.client.send") and watched.deadline is not None:
        connection = arguments[0] if event == "socket.connect" else arguments[0].sock
        watched.deadline.watch(connection)
