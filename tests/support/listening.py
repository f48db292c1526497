"""Where processes listen, as the kernel tells it: TCP ports, and Unix sockets by path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
_ACCEPTS = 0x10000  # the flag of a Unix socket that listens


@dataclass(frozen=True)
class Listening:
    ports: frozenset[int]
    sockets: frozenset[str]


def listening(pids: Iterable[int]) -> Listening:
    """All that these processes listen on now, on any address."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    return Listening(
        frozenset(port for port, inode in _tcp() if inode in inodes),
        frozenset(path for path, inode in _unix() if inode in inodes),
    )


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                found.add(match[1])
    return found


def _tcp() -> Iterable[tuple[int, str]]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _unix() -> Iterable[tuple[str, str]]:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & _ACCEPTS:
            yield fields[7] if len(fields) > 7 else "", fields[6]
