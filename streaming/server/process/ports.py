"""Free loopback ports below the kernel's ephemeral range, so that no outgoing connection takes one while we are down."""

from __future__ import annotations

import pwd
import random
import socket

from streaming.processes.peers import uids_listening
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
    raise StartFailed(f"There are not {count} free ports on {host}.")


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


def choose_port(host: str, *, asked: int | None, before: int | None, usual: int) -> tuple[int, str]:
    """Where to listen, and what a person must know about it, if anything.

    Clients know a server by its port: the one it had before comes first. One that was asked for is used or refused, any
    other makes way for whoever is there already. Raises StartFailed.
    """
    _require_own_address(host)
    if asked is not None:
        if asked and not is_free(asked, host):
            raise StartFailed(
                f"Port {asked} is taken{_by_whom(asked, host)}.", hint="Without --port a free one is taken."
            )
        return asked or free_port(host), ""
    wanted = before or usual
    if is_free(wanted, host):
        return wanted, ""
    port = free_port(host)
    if before is None:
        return port, f"Port {usual} is taken{_by_whom(usual, host)}: this server takes {port}, and keeps it."
    return port, (
        f"Port {before}, where this server was before, is taken{_by_whom(before, host)}: it is at {port} now. "
        "Shells need the new `server env`; runs that wait for the old address go to the new one with `drain --to`."
    )


def _require_own_address(host: str) -> None:
    """Raises StartFailed where nothing could listen, whatever the port."""
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as exc:
        raise StartFailed(
            f"{host} is not an address of this machine ({exc.strerror}).", hint="Leave --host out."
        ) from exc


def _by_whom(port: int, host: str) -> str:
    names = sorted(_user_name(uid) for uid in uids_listening(port, host))
    return f" by {', '.join(names)}" if names else ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
