"""Whose service or store listens on this machine, looked at before the token or rows go there.

Loopback keeps other machines out, and no user of this one: while a service is down, any of them may listen on its port and
wait for tokens. The kernel tells whose a listening socket is.
"""

from __future__ import annotations

import os
import pwd
from urllib.parse import urlsplit

from streaming import config
from streaming.clients.http import remedy
from streaming.errors import NotTheService, Unreachable
from streaming.processes.peers import can_tell, uids_listening


def require_trusted_listener(url: str) -> None:
    """Raises NotTheService if the service is at a port of this machine where another user listens, and Unreachable if
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
    """Ourselves, and root, who can read our memory anyway. Any other account may be taken over or lent to anybody."""
    return uid in (0, os.getuid(), os.geteuid()) or os.environ.get(config.SERVER_USER, "") in (_name(uid), str(uid))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
