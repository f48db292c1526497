"""Who is connected to the engine: JSON lines from and to trackers, drains, and those who only ask."""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from streaming.processes import engine_socket

_UNREAD_MAX_BYTES = _UNSENT_MAX_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Peer:
    """A connection: a tracker with its run, a `drain` with many, or somebody who asks."""

    connection: socket.socket
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)


class Peers:
    """All connections, by one selector whose keys' data are called when they are ready. Nobody is waited for.

    `on_order` gets what a peer says, and raises ValueError, KeyError or TypeError for what makes no sense; `on_gone` hears
    once of each that is gone.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        on_order: Callable[[Peer, dict[str, Any]], None],
        on_gone: Callable[[Peer], None],
    ) -> None:
        self._selector = selector
        self._on_order = on_order
        self._on_gone = on_gone
        self._claim: engine_socket.Claim | None = None
        self._all: set[Peer] = set()

    def __len__(self) -> int:
        return len(self._all)

    def listen(self, claim: engine_socket.Claim) -> None:
        """Serve whoever connects there."""
        self._claim = claim
        claim.listener.setblocking(False)
        self._selector.register(claim.listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._claim is not None
        with suppress(OSError):
            connection, _ = self._claim.listener.accept()
            if engine_socket.is_own_peer(connection):
                self.meet(connection)
            else:
                connection.close()

    def meet(self, connection: socket.socket) -> None:
        """Take orders from this connection."""
        connection.setblocking(False)
        peer = Peer(connection)
        self._all.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._on_ready(peer))
        self.tell(peer, "hello", pid=os.getpid())

    def _on_ready(self, peer: Peer) -> None:
        self._flush(peer)
        try:
            piece = peer.connection.recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        peer.unread += piece
        if not piece or len(peer.unread) > _UNREAD_MAX_BYTES:
            self.dismiss(peer)
            return
        *lines, rest = peer.unread.split(b"\n")
        peer.unread = bytearray(rest)
        for line in lines:
            self._obey(peer, bytes(line))

    def _obey(self, peer: Peer, line: bytes) -> None:
        try:
            self._on_order(peer, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("uploader.order_unknown: %r", error)
            self.dismiss(peer)

    def tell(self, peer: Peer, event: str, **content: Any) -> None:
        """Best effort: who does not listen is told nothing more."""
        if peer in self._all and len(peer.unsent) <= _UNSENT_MAX_BYTES:
            peer.unsent += json.dumps({"event": event, **content}).encode() + b"\n"
            self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        with suppress(OSError):  # full, or gone: that is seen when it is read
            while peer.unsent:
                del peer.unsent[: peer.connection.send(peer.unsent)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        self._selector.modify(peer.connection, events, lambda: self._on_ready(peer))

    def dismiss(self, peer: Peer) -> None:
        """The connection is over."""
        if peer in self._all:
            self._all.discard(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()
            self._on_gone(peer)

    def close(self) -> None:
        """Nobody is served here any more. Others may serve from now on."""
        if self._claim is not None:
            self._claim.retire()
        for peer in [*self._all]:
            self.dismiss(peer)
