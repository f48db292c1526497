"""A wall-clock bound on a request, in any thread: when it has passed, the request's sockets are shut down.

Library timeouts bound one read; a peer that sends a byte a second passes them for ever. Nothing else ends a thread that
waits in `recv`. Which sockets a request uses is told by Python's own audit events: `socket.connect` when a connection
begins (its TLS handshake, too, can be dripped), `http.client.send` when one is used again. Looking a name up in DNS is
bounded by the resolver alone.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class DeadlinePassed(TimeoutError):
    """The call took longer than allowed. An OSError, so that what it interrupts closes what it has opened."""


class _Watched(threading.local):
    """The deadline that bounds what this thread does now."""

    deadline: _Deadline | None = None


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


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "http.client.send") and _watched.deadline is not None:
        connection = arguments[0] if event == "socket.connect" else arguments[0].sock
        _watched.deadline.watch(connection)
