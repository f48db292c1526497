"""A listening socket on loopback that can go down and come up again on the same port."""

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.wire import Wire

JOIN_S = 2.0


class Listener:
    """Accepts, and talks on a thread per connection.

    Beside the listening socket there is always one that is bound to the same port and does not listen: while we are down,
    connects are refused, and nobody else gets the port.
    """

    def __init__(self, converse: Callable[[Wire], None], *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._converse = converse
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Wire] = {}
        self._accepting: threading.Thread | None = None
        self._held = bound(port)
        self.port: int = self._held.getsockname()[1]
        self._sock = bound(self.port)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._accepting is not None

    def up(self) -> None:
        if self._accepting is not None:
            return
        self._sock.listen(128)
        self._accepting = threading.Thread(target=self._accept, name=f"far-end-{self.port}", daemon=True)
        self._accepting.start()

    def down(self) -> None:
        """Refuse new connections and reset the open ones; returns when all that is done."""
        if self._accepting is None:
            return
        self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._accepting.join()
        self._accepting = None
        self._sock.close()
        self._sock = bound(self.port)  # the same socket would not listen again: connects stay refused (Linux 6.18)
        self.reset_connections()

    def reset_connections(self) -> None:
        with self._lock:
            connections = dict(self._open)
        for wire in connections.values():
            wire.wake()
        for thread, wire in connections.items():
            thread.join(JOIN_S)
            if thread.is_alive():  # blocked in a send that nobody reads
                wire.wake(how=socket.SHUT_RDWR)
                thread.join(JOIN_S)

    def close(self) -> None:
        self.down()
        self._sock.close()
        self._held.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return  # shut by down()
            self._start(Wire(sock))

    def _start(self, wire: Wire) -> None:
        thread = threading.Thread(target=self._talk, args=(wire,), name=f"far-end-{self.port}-peer", daemon=True)
        with self._lock:
            self._open[thread] = wire
        thread.start()

    def _talk(self, wire: Wire) -> None:
        try:
            if self._tls is not None:
                wire.sock = self._tls.wrap_socket(wire.sock, server_side=True)
            self._converse(wire)
        except OSError:
            pass  # the peer left, refused our certificate, or we go down: the journal has what matters
        finally:
            self._hang_up(wire)

    def _hang_up(self, wire: Wire) -> None:
        with suppress(OSError):
            if wire.gone.is_set():
                wire.reset()
        wire.close()
        with self._lock:
            self._open.pop(threading.current_thread(), None)


def bound(port: int) -> socket.socket:
    """A socket that has a port of loopback (0: a free one) and does not listen; the port can be had again by us only."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


_SYN_SENT = "02"


class BlackHole:
    """An address where a connect gets no answer at all: a listening socket whose accept queue is full (Linux)."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(0)
        self.port: int = self._sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._fillers: list[socket.socket] = []
        self._open()

    def _open(self) -> None:
        self._fillers = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))

    def unanswered_count(self) -> int:
        """How many wait for an answer now, those of others only."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        waiting = [line for line in lines if line[2] == f"0100007F:{self.port:04X}" and line[3] == _SYN_SENT]
        ours = {f"0100007F:{filler.getsockname()[1]:04X}" for filler in self._fillers}
        return sum(line[1] not in ours for line in waiting)

    def __enter__(self) -> "BlackHole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (*self._fillers, self._sock):
            sock.close()


class FailingLink(BlackHole):
    """The way of one connection to a port, until it fails: then nothing gets through any more, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.swallowed = b""
        self._has_failed = False
        super().__init__()

    def _open(self) -> None:
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def fail(self) -> None:
        self._has_failed = True
        super()._open()

    def _carry(self) -> None:
        with (
            suppress(OSError),
            self._sock.accept()[0] as near,
            socket.create_connection(("127.0.0.1", self._to)) as far,
        ):
            ends = {near: far, far: near}
            while True:
                for end in select.select(ends, [], [])[0]:
                    piece = end.recv(1 << 16)
                    if not piece:
                        return
                    if self._has_failed:
                        self.swallowed += piece
                    else:
                        ends[end].sendall(piece)

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        super().close()
