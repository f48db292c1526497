"""Whose a connection or a listening port of this machine is: the kernel's word (Linux), which nobody can forge.

On loopback an address and a port say nothing: while a program is away, any user may take its port.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Address = tuple[str, int]

_TABLES = ("tcp", "tcp6")
_LISTENS = "0A"
_ANY = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "::1")


class _Socket(NamedTuple):
    local: Address
    remote: Address
    state: str
    uid: int


def can_tell() -> bool:
    """Whether the kernel says here whose a connection is."""
    return Path("/proc/self/net/tcp").exists()


def uid_of_client(client: Address, server: Address) -> int | None:
    """Who made the connection that a server of this machine sees; None if it comes from elsewhere, or nobody can tell."""
    wanted = _plain(client), _plain(server)
    if not ipaddress.ip_address(wanted[0][0]).is_loopback:
        return None
    return next((found.uid for found in _sockets() if (found.local, found.remote) == wanted), None)


def uids_listening(port: int, host: str) -> frozenset[int]:
    """Whoever hears a connection to this address; none where nobody listens or nobody can tell."""
    hosts = {*_ANY, *(_LOOPBACK if host == "localhost" else [_plain((host, port))[0]])}
    listening = (found for found in _sockets() if found.state == _LISTENS)
    return frozenset(found.uid for found in listening if found.local[1] == port and found.local[0] in hosts)


def _sockets() -> Iterator[_Socket]:
    for table in _TABLES:
        try:
            lines = Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _Socket(_address(fields[1]), _address(fields[2]), fields[3], int(fields[7]))


def _address(text: str) -> Address:
    """`0100007F:1F90` is 127.0.0.1, 8080: words of four bytes, each in the machine's order."""
    host, _, port = text.partition(":")
    words = [int(host[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(host), 8)]
    return _plain((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))


def _plain(address: Address) -> Address:
    """One form of each: an IPv4 address that is seen through an IPv6 socket is the IPv4 address."""
    host = ipaddress.ip_address(address[0].partition("%")[0])
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host), address[1]
