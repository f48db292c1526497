"""The API process (`python -c "...serve.main()"`, its settings on standard input), and how long a client may dawdle.

The connections are uvicorn's, with a time limit for each thing that a client may dawdle at.

uvicorn itself bounds only the pause between two requests. Here a request's head, its body, and the taking of an answer
have their time, counted from their beginning: a byte now and then buys nothing. And there is a limit of connections: past
it whoever has most of them (a user of this machine, or another one's address) gives up the one that keeps us waiting
longest, whatever for, or else the last. So no crowd keeps anybody out, whether it dawdles or asks for more and more.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from streaming.processes.peers import uid_of_client
from streaming.processes.system import forbid_core_dumps
from streaming.server.api.app import create_app
from streaming.server.api.headers import HEADERS
from streaming.server.settings import ApiSettings

_KEEP_ALIVE_S = 15
_DROP = struct.pack("ii", 1, 0)  # linger for no time: the kernel resets the connection and forgets what is unsent


@dataclass(frozen=True)
class ConnectionLimits:
    """`body_timeout_s` lets 8 MiB through at 70 kB a second."""

    connections: int = 512
    head_timeout_s: float = 10.0
    body_timeout_s: float = 120.0
    taking_timeout_s: float = 60.0


class Bounded(H11Protocol):
    """One connection.

    `waiting`: all that wait for their clients, those first that have waited longest. `crowds`: each one's connections.
    """

    limits: ClassVar[ConnectionLimits]
    waiting: ClassVar[OrderedDict[Bounded, None]]
    crowds: ClassVar[defaultdict[object, OrderedDict[Bounded, None]]]
    _peer: object = None
    _timer: asyncio.TimerHandle | None = None
    _waits_for: str = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = self._whose()
        self.crowds[self._peer][self] = None
        if sum(map(len, self.crowds.values())) > self.limits.connections:
            largest = max(self.crowds.values(), key=len)
            next((each for each in self.waiting if each in largest), next(reversed(largest)))._hang_up()
        if not transport.is_closing():
            self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self._wait_for("")
        self.crowds[self._peer].pop(self, None)
        if not self.crowds[self._peer]:
            del self.crowds[self._peer]

    def _whose(self) -> object:
        """The user who made the connection, on this machine; else the address it comes from."""
        if self.client is None or self.server is None:
            return None
        uid = uid_of_client(self.client, (self.server[0], self.server[1] or 0))
        return self.client[0] if uid is None else uid

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """The one answer that is not the application's, with its headers."""
        headers = [*HEADERS.items(), ("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=msg.encode("ascii")),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look(self) -> None:
        """What the client owes us now; nothing while its request is served."""
        if self.flow.write_paused:
            self._wait_for("taking")
        elif self.conn.their_state is h11.SEND_BODY:
            self._wait_for("body")
        elif self.timeout_keep_alive_task is not None:
            self._wait_for("pause")
        elif self.conn.their_state is h11.IDLE:
            self._wait_for("head")
        else:
            self._wait_for("")

    def _wait_for(self, what: str) -> None:
        if what == self._waits_for:
            return  # a little more of the same: the time goes on
        self._waits_for = what
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.waiting.pop(self, None)
        if what:
            self.waiting[self] = None
        if what and what != "pause":  # that is uvicorn's own to bound, by its keep-alive timer
            timeout_s = getattr(self.limits, f"{what}_timeout_s")
            self._timer = self.loop.call_later(timeout_s, self._hang_up)

    def _hang_up(self) -> None:
        """At once, and what was not taken is not kept for them either."""
        self._leave()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP)
        self.transport.abort()


def bounded(limits: ConnectionLimits) -> type[Bounded]:
    """A protocol class for uvicorn's `http` setting. All its connections count together."""
    return type("Bounded", (Bounded,), {"limits": limits, "waiting": OrderedDict(), "crowds": defaultdict(OrderedDict)})


def main() -> None:
    """Serve until killed. What was answered is durable already, so SIGKILL loses nothing."""
    forbid_core_dumps()  # our memory holds keys
    settings = ApiSettings.from_json(sys.stdin.buffer.read())
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=bounded(ConnectionLimits()),
        ws="none",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
