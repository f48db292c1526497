"""HTTP/1.1 on a bare socket: what a peer sent, and full control over what it gets back."""

import base64
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

TLS_HANDSHAKE = b"\x16\x03"  # how a ClientHello begins; by chance it holds no line end, or what looks like three words
LINE_MAX_BYTES = 65_536
PIECE_BYTES = 65_536
BODILESS = {204, 304}


class PeerLeft(ConnectionError):
    """The peer closed, or this far end was told to go down."""


class BudgetSpent(ConnectionError):
    """The fault script allows no more of this body to be read."""


@dataclass(frozen=True)
class Head:
    """Request line and headers (names in lower case)."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def raw_path(self) -> str:
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def query(self) -> str:
        return urlsplit(self.target).query


@dataclass(frozen=True)
class Request:
    """One whole request; `body` has its transfer and aws-chunked framing taken off, nothing else."""

    head: Head
    body: bytes
    trailers: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        return self.trailers.get(name) or self.head.headers.get(name)


@dataclass(frozen=True)
class Answer:
    """A status with headers and body; `body=None` lets the door that was knocked at phrase its usual error."""

    status: int
    body: bytes | None = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    declares_length: bool = True

    @classmethod
    def of_json(cls, status: int, content: Any) -> "Answer":
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def encode(self, *, date_s: float, bodiless: bool = False) -> bytes:
        """The bytes for the wire, `Date` taken from the far end's own clock."""
        body = b"" if bodiless or self.status in BODILESS else (self.body or b"")
        headers = {"Date": formatdate(date_s, usegmt=True), "Server": "far-end", **self.headers}
        if not self.declares_length:
            headers["Connection"] = "close"
        elif self.status not in BODILESS:
            headers.setdefault("Content-Length", str(len(self.body or b"" if bodiless else body)))
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unnamed"


class Wire:
    """One connection. `gone` is set when the far end goes down: every wait in here ends then."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.gone = threading.Event()
        self.read_budget_bytes: int | None = None
        self.read_rate_bytes_s: int | None = None
        self._buffer = bytearray()

    def read_head(self) -> Head:
        line = self.read_line()
        while not line:  # RFC 9112 2.2: tolerate an empty line before a request line
            line = self.read_line()
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or line.startswith(TLS_HANDSHAKE):
            raise PeerLeft("not a request line: TLS, or no HTTP at all")
        method, target, _version = words
        return Head(method, target, self.read_headers())

    def read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        while line := self.read_line().decode("latin-1"):
            name, _, content = line.partition(":")
            headers[name.strip().lower()] = content.strip()
        return headers

    def read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_MAX_BYTES or self._buffer.startswith(TLS_HANDSHAKE):
                raise PeerLeft("a line too long, or TLS spoken to a plain door")
            self._receive()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line.rstrip(b"\r\n")

    def read_exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            if not self._buffer:
                self._receive()
            piece = self._take(size - len(got))
            got += piece
        return bytes(got)

    def _take(self, size: int) -> bytes:
        """At most `size` buffered bytes of a body, at the pace and within the budget of the script."""
        rate, budget = self.read_rate_bytes_s, self.read_budget_bytes
        if rate is not None:
            size = min(size, max(1, rate // 10))
            if self.gone.wait(0.1):
                raise PeerLeft("going down")
        if budget is not None:
            if budget <= 0:
                raise BudgetSpent("body cut short by the script")
            size = min(size, budget)
        piece = bytes(self._buffer[:size])
        del self._buffer[: len(piece)]
        if budget is not None:
            self.read_budget_bytes = budget - len(piece)
        return piece

    def _receive(self) -> None:
        piece = self.sock.recv(PIECE_BYTES)
        if not piece or self.gone.is_set():
            raise PeerLeft("peer closed")
        self._buffer += piece

    def read_body(self, head: Head) -> Request:
        """The body that `head` announces, after the 100 that botocore waits for."""
        if head.headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw = self._read_raw(head)
        if "aws-chunked" in head.headers.get("content-encoding", ""):
            body, trailers = decode_aws_chunks(raw)
            return Request(head, body, trailers)
        return Request(head, raw)

    def _read_raw(self, head: Head) -> bytes:
        if "chunked" in head.headers.get("transfer-encoding", "").lower():
            return b"".join(self._read_chunks())
        return self.read_exactly(int(head.headers.get("content-length", "0")))

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self.read_line().split(b";")[0], 16):
            yield self.read_exactly(size)
            self.read_line()
        self.read_headers()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def trickle(self, data: bytes, *, interval_s: float) -> None:
        """One byte per interval, until all is sent, the peer leaves, or the far end goes down."""
        for index in range(len(data)):
            self.send(data[index : index + 1])
            if self.gone.wait(interval_s):
                raise PeerLeft("going down")

    def half_close(self) -> None:
        """Send FIN and keep the connection: nothing more comes, yet nobody hangs up."""
        self.sock.shutdown(socket.SHUT_WR)
        self.gone.wait()

    def reset(self) -> None:
        """Close with RST: what the peer has not read yet is lost to it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wake(self, *, how: int = socket.SHUT_RD) -> None:
        """Called by another thread: end every wait of the thread that owns this connection."""
        self.gone.set()
        try:
            self.sock.shutdown(how)
        except OSError:
            return  # closed meanwhile

    def close(self) -> None:
        self.sock.close()


def decode_aws_chunks(raw: bytes) -> tuple[bytes, dict[str, str]]:
    """Take the aws-chunked framing off: the content, and the trailing headers (checksums)."""
    content, rest = bytearray(), raw
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            return bytes(content), _trailers(rest)
        content += rest[:size]
        rest = rest[size + 2 :]


def _trailers(raw: bytes) -> dict[str, str]:
    pairs = (line.decode("latin-1").partition(":") for line in raw.split(b"\r\n") if b":" in line)
    return {name.strip().lower(): content.strip() for name, _, content in pairs}


def base64_digest(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
