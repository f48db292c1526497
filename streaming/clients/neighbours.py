"""Whose service or store listens on this machine, looked at before the token or rows go there.

Loopback keeps other machines out, and no user of this one: while a service is down, any of them may listen on its port and
wait for tokens. The kernel tells whose a listening socket is.
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from streaming import config
from streaming.clients.http import remedy
from streaming.errors import NotTheService, Unreachable
from streaming.processes.peers import can_tell, uids_listening

_FIRST_PERSON = 1000  # below are root and the system's own accounts: what listens there the administrator has set up
_ALL_USERS = "4294967295"


def require_trusted_listener(url: str) -> None:
    """Raises NotTheService if the service is at a port of this machine where another person listens, and Unreachable if
    nobody does: then nothing is tried, as whoever opens and shuts the port in turns would be met by chance.

    What the kernel does not tell (macOS) is for the connection to find out. With https the certificate says who it is.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not config.is_loopback(parts.hostname or ""):
        return
    port = parts.port or 80
    found = uids_listening(port, parts.hostname or "")
    if not found and can_tell():
        raise Unreachable(f"{url} cannot be reached (refused)", cause="refused", hint=remedy("refused"))
    for uid in found:
        if not _is_trusted(uid):
            name = _name(uid)
            raise NotTheService(
                f"at {url} another user of this machine listens, {name}: nothing is sent there",
                cause="another user's service",
                hint=f"start your own again; if it is {name}'s that you want, set {config.SERVER_USER}={name}",
            )


def _is_trusted(uid: int) -> bool:
    return uid < _FIRST_PERSON or uid in (os.getuid(), os.geteuid()) or _is_named(uid) or _is_unmapped(uid)


def _is_named(uid: int) -> bool:
    return os.environ.get(config.SERVER_USER, "") in (_name(uid), str(uid))


def _is_unmapped(uid: int) -> bool:
    """A user from outside of our user namespace (a container): who it is cannot be told from in here."""
    with suppress(OSError, ValueError):
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
        return uid == overflow and _ALL_USERS not in Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
