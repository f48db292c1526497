"""What another user tries at ports that are not theirs. Reads a plan as JSON, prints what answered, as JSON.

Standard library only, and no import of ours: it runs as somebody else.
"""

import json
import socket
import ssl
import struct
import sys
from typing import Any

TIMEOUT_S = 5
REFUSED = b"Client sent an HTTP request to an HTTPS server."
_HEADERS, _DATA, _END_STREAM, _END_HEADERS = 1, 0, 1, 4


def main() -> None:
    plan: dict[str, Any] = json.load(sys.stdin)
    found: list[str] = []
    tried = 0
    for port in plan["ports"]:
        for verb in plan["verbs"]:
            for path in plan["paths"]:
                tried += 1
                found += answers(port, None, request(verb, path), f"{verb} {path}")
        for how, context in contexts(plan["certificate"]):
            tried += len(plan["methods"]) + 1
            found += answers(port, context, request("GET", "/"), f"{how} GET /")
            found += answers(port, context, grpc(plan["methods"]), f"{how} gRPC")
    for path in plan["sockets"]:
        tried += 1
        found += connects(path)
    print(json.dumps({"tried": tried, "found": found}))


def contexts(certificate: str) -> list[tuple[str, "ssl.SSLContext | None"]]:
    """In plain text, over TLS without a certificate, and with one that the intruder made."""
    anonymous, own = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
    for context in (anonymous, own):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
    own.load_cert_chain(certificate)
    return [("plain", None), ("TLS", anonymous), ("TLS with a certificate", own)]


def answers(port: int, context: "ssl.SSLContext | None", sent: bytes, what: str) -> list[str]:
    """Nothing if the far side hangs up, or only says that it wants TLS."""
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain:
            if context is None:
                plain.sendall(sent)
                received = everything(plain)
            else:
                with context.wrap_socket(plain) as tls:
                    tls.sendall(sent)
                    received = everything(tls)
    except OSError:
        pass
    return [f"{port} {what}: {received[:120]!r}"] if received and REFUSED not in received else []


def everything(connection: socket.socket) -> bytes:
    """What comes before it hangs up, or until there is enough to judge by."""
    received = b""
    try:
        while len(received) < 100 and (part := connection.recv(65536)):
            received += part
    except OSError:
        pass
    return received


def request(verb: str, path: str) -> bytes:
    return f"{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


def grpc(methods: list[str]) -> bytes:
    """HTTP/2: the preface, no settings, and each method with an empty message."""
    streams = [stream(2 * number + 1, method) for number, method in enumerate(methods)]
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + b"".join(streams)


def stream(number: int, method: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\0" + literal(name) + literal(value) for name, value in fields.items())
    message = b"\0\0\0\0\0"
    return frame(_HEADERS, _END_HEADERS, number, block) + frame(_DATA, _END_STREAM, number, message)


def literal(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + payload


def connects(path: str) -> list[str]:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return []
    return [f"{path}: connected"]


main()
