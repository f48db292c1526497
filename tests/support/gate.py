"""A gate on loopback: forwards to a port, until it is shut. What lies behind it is then unreachable, and goes on running."""

import contextlib
import select
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

from tests.support.listener import bound

PIECE_BYTES = 1 << 16
STEP_S = 0.05
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of no time: a reset instead of a farewell


class Gate:
    """Open from construction on, always on the same port. Shut: connections are refused, and the present ones reset."""

    def __init__(self, behind_url: str, *, records: bool = False) -> None:
        """`records`: keep every byte that comes back (see `heard`)."""
        parts = urlsplit(behind_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._behind = (parts.hostname, parts.port)
        self._held = bound(0)  # while the gate is shut, nobody else gets the port
        self._port = self._held.getsockname()[1]
        self._listener: socket.socket | None = None
        self._is_shut = threading.Event()
        self._threads: list[threading.Thread] = []
        self.passed_count = 0
        self.replies_to_lose = 0  # of the next answers that come back: obeyed, and never heard of
        self._records = records
        self._heard: list[bytes] = []
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def heard(self) -> bytes:
        """What came back through the gate so far, as far as it was recorded."""
        return b"".join(self._heard)

    def open(self) -> None:
        """Let connections through; harmless when open."""
        if self._listener is not None:
            return
        self._is_shut.clear()
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listener.settimeout(STEP_S)
        self._start(self._accept, self._listener)

    def shut(self) -> None:
        """Refuse connections, and reset those that are there; harmless when shut."""
        if self._listener is None:
            return
        self._is_shut.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._listener = None

    def close(self) -> None:
        """Shut for good, and give the port back."""
        self.shut()
        self._held.close()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self, work: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self._is_shut.is_set():
                with contextlib.suppress(TimeoutError):
                    near, _ = listener.accept()
                    self.passed_count += 1
                    self._start(self._forward, near)

    def _forward(self, near: socket.socket) -> None:
        near.settimeout(None)
        with near, contextlib.suppress(OSError), socket.create_connection(self._behind) as far:
            other = {near: far, far: near}
            while not self._is_shut.is_set():
                for ready in select.select([near, far], [], [], STEP_S)[0]:
                    if not (piece := ready.recv(PIECE_BYTES)):
                        return
                    if ready is far and self._loses(piece):
                        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        return
                    if self._records and ready is far:
                        self._heard.append(piece)
                    other[ready].sendall(piece)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _loses(self, piece: bytes) -> bool:
        is_lost = self.replies_to_lose > 0 and not piece.startswith(b"HTTP/1.1 100 ")
        self.replies_to_lose -= is_lost
        return is_lost
