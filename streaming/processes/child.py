"""A running process of ours as its starter sees it: a connection that ends with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from streaming.processes.system import wait_readable

FIRST_DESCRIPTOR = 3  # 0 to 2 are the program's, also if it has closed them
SEND_TIMEOUT_S = 5.0
_PIECE_BYTES = 1 << 16
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # telling the dead is a SIGPIPE, deadly to some programs

Result = TypeVar("Result")


class Connection:
    """A connection of ours in the user's program, which may close its descriptor behind our back (as daemons do), or open
    its own files under the same number: then it counts as lost. Usable from any thread."""

    def __init__(self, connected: socket.socket) -> None:
        self._descriptor = moved_up(connected.detach())
        self._identity = _file_identity(self._descriptor)

    @property
    def is_open(self) -> bool:
        """Whether it was there when last used: that it is gone is found out by `receive` and `send`."""
        return self._ours() is not None

    def _ours(self) -> int | None:
        """The descriptor, None if it is closed or has become somebody else's."""
        descriptor = self._descriptor
        return descriptor if descriptor >= 0 and _file_identity(descriptor) == self._identity else None

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something to receive, or the other end is gone, within so many seconds."""
        descriptor = self._ours()
        return descriptor is None or bool(wait_readable([descriptor], timeout_s))

    def receive(self) -> bytes:
        """What has come, once `wait` has said so; b"" and closed if the other end is gone."""
        with suppress(OSError):
            if piece := self._with_socket(lambda connected: connected.recv(_PIECE_BYTES)):
                return piece
        self.close()
        return b""

    def send(self, content: bytes) -> None:
        """All of it. If the other end is gone, or does not listen, it is closed: half of it may have gone."""
        with suppress(OSError):
            self._with_socket(lambda connected: _send(connected, content))
            return
        self.close()

    def _with_socket(self, use: Callable[[socket.socket], Result]) -> Result:
        """The descriptor as a socket for one call; never one that closes it when it is forgotten."""
        descriptor = self._ours()
        if descriptor is None:
            raise ConnectionError
        connected = socket.socket(fileno=descriptor)
        try:
            return use(connected)
        finally:
            connected.detach()

    def close(self) -> None:
        """Harmless twice, and when it is not ours any more."""
        descriptor, self._descriptor = self._ours(), -1
        if descriptor is not None:
            os.close(descriptor)


def _send(connected: socket.socket, content: bytes) -> None:
    connected.settimeout(SEND_TIMEOUT_S)
    while content:
        content = content[connected.send(content, _NO_SIGNAL) :]


def _file_identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Child:
    """A running process of ours. Usable from any thread of the process that started it."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self._connection = connection

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended its work for us, or cannot be heard any more. False after `timeout_s` seconds."""
        return self._connection.wait(timeout_s)

    def answer(self) -> bytes:
        """What it said, to be asked after its end."""
        parts = []
        while self._connection.wait(SEND_TIMEOUT_S) and (part := self._connection.receive()):
            parts.append(part)
        return b"".join(parts)

    def tell(self, word: bytes) -> None:
        """Send one line. A child that is gone does not mind."""
        self._connection.send(word + b"\n")

    def close(self) -> None:
        """Release the connection (the child goes on). Harmless twice."""
        self._connection.close()


def moved_up(descriptor: int) -> int:
    """The same file under a number that is no place of stdin, stdout or stderr, where others would write to it; closed on
    exec."""
    low = []
    while descriptor < FIRST_DESCRIPTOR:
        low.append(descriptor)
        descriptor = os.dup(descriptor)
    for number in low:
        os.close(number)
    return descriptor
