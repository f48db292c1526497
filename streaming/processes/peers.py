"""Whose a connection or a listening port of this machine is: the kernel's word (Linux), which nobody can forge.

On loopback an address and a port say nothing: while a program is away, any user may take its port.

It is asked before every request, so sock_diag is asked: the table in /proc says the same, and takes milliseconds even
where it is empty. The table has the last word where sock_diag has never found anything (some containers do not have it).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

Address = tuple[str, int]

_TABLES = ("tcp", "tcp6")
_LISTENS = "0A"
_ANY = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "::1")

_SOCK_DIAG, _BY_FAMILY, _TCP = 4, 20, 6  # netlink's family, its message, and the protocol that is asked about
_REQUEST, _DUMP, _MULTI = 0x001, 0x300, 0x002  # flags: a question, for all that fit; an answer of several parts
_EVERY_STATE, _LISTENING = 0xFFFFFFFF, 1 << int(_LISTENS, 16)
_HEAD = struct.Struct("=IHHII")  # length, kind, flags, number, pid
_QUESTION = struct.Struct("=BBxxI2s2s16s16s4x8s")  # family, protocol, states, ports, addresses, "any cookie"
_ANSWER = struct.Struct("=BBxx2s2s16s16s24xII")  # family, state, ports, addresses, user, inode
_ANY_COOKIE = b"\xff" * 8
_PATIENCE_S = 1.0

_sock_diag_works = threading.Event()


class _Socket(NamedTuple):
    local: Address
    remote: Address
    state: str
    uid: int
    inode: int  # 0 once its program has closed it: then the kernel says that it is root's, whosever it was


def can_tell() -> bool:
    """Whether the kernel says here whose a connection is."""
    return Path("/proc/self/net/tcp").exists()


def uid_of_client(client: Address, server: Address) -> int | None:
    """Who made the connection that a server of this machine sees, and has it open still.

    None if it comes from elsewhere, or nobody can tell.
    """
    wanted = _plain(client), _plain(server)
    if not ipaddress.ip_address(wanted[0][0]).is_loopback:
        return None
    return next(
        (each.uid if each.inode else None for each in _found(*wanted) if (each.local, each.remote) == wanted), None
    )


def uids_listening(port: int, host: str) -> frozenset[int]:
    """Whoever hears a connection to this address; none where nobody listens or nobody can tell."""
    hosts = {*_ANY, *(_LOOPBACK if host == "localhost" else [_plain((host, port))[0]])}
    return _uids(_asked_for_listeners(port), port, hosts) or _uids(_sockets(), port, hosts)


def _uids(sockets: Iterator[_Socket], port: int, hosts: set[str]) -> frozenset[int]:
    listening = (each for each in sockets if each.state == _LISTENS and each.local[1] == port)
    return frozenset(each.uid for each in listening if each.local[0] in hosts)


def _found(client: Address, server: Address) -> Iterator[_Socket]:
    yield from _asked(client, server)
    if not _sock_diag_works.is_set():
        yield from _sockets()


def _asked(client: Address, server: Address) -> Iterator[_Socket]:
    """The socket of the client's end, if the kernel finds it."""
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    ends = (end[1].to_bytes(2, "big") for end in (client, server))
    hosts = (socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (client, server))
    return _ask(_REQUEST, _QUESTION.pack(family, _TCP, _EVERY_STATE, *ends, *hosts, _ANY_COOKIE))


def _asked_for_listeners(port: int) -> Iterator[_Socket]:
    """Those at this port: a node may have thousands, and each costs more to read than to leave out."""
    at = (port.to_bytes(2, "big"), b"", b"", b"", _ANY_COOKIE)
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from _ask(_REQUEST | _DUMP, _QUESTION.pack(family, _TCP, _LISTENING, *at))


def _ask(flags: int, question: bytes) -> Iterator[_Socket]:
    """What the kernel answers to a question of sock_diag (man 7 sock_diag); nothing where it cannot be asked."""
    with suppress(OSError, AttributeError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_PATIENCE_S)
        kernel.send(_HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, flags, 1, 0) + question)
        is_over = False
        while not is_over:
            part = memoryview(kernel.recv(1 << 16))
            while part and not is_over:
                length, kind, has_more, *_ = _HEAD.unpack_from(part)
                is_over = kind != _BY_FAMILY or not has_more & _MULTI
                if kind == _BY_FAMILY:
                    _sock_diag_works.set()
                    yield _socket(*_ANSWER.unpack_from(part, _HEAD.size))
                part = part[length + 3 & ~3 :]


def _socket(
    family: int, state: int, port: bytes, to_port: bytes, host: bytes, to_host: bytes, uid: int, inode: int
) -> _Socket:
    local, remote = (_address_of(family, *end) for end in ((host, port), (to_host, to_port)))
    return _Socket(local, remote, f"{state:02X}", uid, inode)


def _address_of(family: int, host: bytes, port: bytes) -> Address:
    length = 4 if family == socket.AF_INET else 16
    return _plain((socket.inet_ntop(family, host[:length]), int.from_bytes(port, "big")))


def _sockets() -> Iterator[_Socket]:
    for table in _TABLES:
        try:
            lines = Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _Socket(_address(fields[1]), _address(fields[2]), fields[3], int(fields[7]), int(fields[9]))


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
