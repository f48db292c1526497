"""Free loopback ports below the kernel's ephemeral range, so that no outgoing connection takes one while we are down."""

from __future__ import annotations

import random
import socket

from streaming.server.errors import StartFailed

_LOWEST, _HIGHEST = 15_000, 32_000  # Linux hands out 32768 and up, macOS 49152 and up
_TRIES = 1000
_random = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that could be bound a moment ago; the caller tries again if it has gone."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """As `free_port`, all different."""
    found: set[int] = set()
    for _ in range(_TRIES):
        port = _random.randrange(_LOWEST, _HIGHEST)
        if port not in found and is_free(port, host):
            found.add(port)
        if len(found) == count:
            return sorted(found)
    raise StartFailed(f"No {count} free ports on {host}.")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
