"""The caller's side of the engine: find it or start it, hand it orders, hear its events. Standard library only.

Orders and events are JSON objects, one a line. An order is {"do": ...}: "deliver" (path, terms; from a run's tracker,
once more when it has ended; this connection is its life sign), "drain" (path, terms, wishes), "leave" (path: it is not
waited for any more), "status", "stop". An event is {"event": ...}: "hello" (pid), "progress", "problem", "answering",
"done" (each with path), "stopping", "status".
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from streaming.errors import LaunchFailed
from streaming.processes import engine_socket
from streaming.processes.child import Connection

ELECTION_S = 5.0  # how long another starter may take from its lock to its socket, or an engine to leave
_ELECTION_LOOK_S = 0.02
_ASK_S = 0.25
LOG_NAME = "uploader-{host}.log"

log = logging.getLogger(__name__)
Event = dict[str, Any]


class EngineLink:
    """A connection to the engine. Usable from any thread of the process that opened it."""

    def __init__(self, connected: socket.socket) -> None:
        self._connection = Connection(connected)
        self._unread = bytearray()
        self._lock = threading.RLock()
        self.engine_pid: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the engine was there when last heard or told. `events` finds out."""
        return self._connection.is_open

    def tell(self, order: Mapping[str, Any]) -> None:
        """Hand over an order. Nothing happens if the engine is gone: `events` tells so."""
        with self._lock:
            self._connection.send(json.dumps(order).encode() + b"\n")

    def events(self, timeout_s: float) -> list[Event]:
        """What the engine tells within so many seconds, as soon as there is something. [] too when it is gone."""
        give_up_at = time.monotonic() + timeout_s
        while self.is_open and self._connection.wait(give_up_at - time.monotonic()):
            with self._lock:
                found = self._read() if self._connection.wait(0.0) else []
            if found or time.monotonic() >= give_up_at:
                return found
        return []

    def _read(self) -> list[Event]:
        self._unread += self._connection.receive()
        *lines, rest = self._unread.split(b"\n")
        self._unread = bytearray(rest)
        found: list[Event] = [json.loads(line) for line in lines]
        for event in found:
            if event["event"] == "hello":
                self.engine_pid = event["pid"]
        return found

    def close(self) -> None:
        """The engine takes it for the end of who holds it. Harmless twice."""
        self._connection.close()


def find(spool_directory: Path) -> EngineLink | None:
    """A link to the engine that serves this directory with our settings, None if there is none."""
    with suppress(OSError):
        connection = engine_socket.connect(engine_socket.socket_name(spool_directory))
        return None if connection is None else EngineLink(connection)
    return None


def find_all(spool_directory: Path) -> list[EngineLink]:
    """Links to all engines that serve this directory, also those with other settings or of another version."""
    with suppress(OSError):
        connections = [engine_socket.connect(name) for name in engine_socket.names(spool_directory)]
        return [EngineLink(connection) for connection in connections if connection is not None]
    return []


def find_or_start(
    spool_directory: Path, *, hidden: Sequence[str] = (), method: str = "spawn", wait_s: float = ELECTION_S
) -> EngineLink:
    """A link to the engine of this directory, which is started if there is none. Does not wait until it has come up.

    `hidden`: secrets that must not reach it through its environment. Raises LaunchFailed.
    """
    try:
        name = engine_socket.socket_name(spool_directory)
        give_up_at = time.monotonic() + wait_s
        while True:
            connection = engine_socket.connect(name)
            if connection is not None:
                return EngineLink(connection)
            claim = engine_socket.claim(name)
            if claim is not None:
                return _start(spool_directory, claim, hidden, method)
            if time.monotonic() >= give_up_at:
                raise LaunchFailed("the uploader is about to end", hint="rows are kept; it is tried again")
            time.sleep(_ELECTION_LOOK_S)
    except OSError as error:
        log.debug("uploader.no_socket: %s; this run gets one of its own", error)
        return _start_private(spool_directory, hidden, method)


def _start(spool_directory: Path, claim: engine_socket.Claim, hidden: Sequence[str], method: str) -> EngineLink:
    """Start an engine that serves at a name, and be the first to connect."""
    try:
        connection = engine_socket.connect(claim.name)
        if method == "fork":
            claim.outlive_fork()
        order = {"name": claim.name, "lock": claim.lock, "listener": claim.listener.fileno()}
        _launch(spool_directory, order, [claim.lock, claim.listener.fileno()], hidden, method)
    except BaseException:
        claim.retire()
        raise
    claim.release()
    if connection is None:
        raise LaunchFailed("the uploader's socket was taken away", hint="rows are kept; it is tried again")
    return EngineLink(connection)


def _start_private(spool_directory: Path, hidden: Sequence[str], method: str) -> EngineLink:
    """Where no socket can have a name: an engine for us alone, by a connection that it is born with."""
    ours, its = socket.socketpair()
    with its:
        try:
            _launch(spool_directory, {"connection": its.fileno()}, [its.fileno()], hidden, method)
        except BaseException:
            ours.close()
            raise
    return EngineLink(ours)


def _launch(
    spool_directory: Path, order: Mapping[str, Any], kept: Sequence[int], hidden: Sequence[str], method: str
) -> None:
    from streaming.processes import launch  # here only: most runs find an engine

    order = {
        **order,
        "spool_directory": str(spool_directory),
        "log_level": logging.getLogger("streaming").getEffectiveLevel(),
    }
    log_path = spool_directory / LOG_NAME.format(host=os.uname().nodename)
    launch.start("uploader", order, log_path=log_path, method=method, kept=kept, hidden=hidden).close()


def stop_all(spool_directory: Path, *, timeout_s: float) -> tuple[int, int]:
    """Ask all engines of a directory to end in order. How many there were, and how many are still there after so long."""
    links = find_all(spool_directory)
    for link in links:
        link.tell({"do": "stop"})
    give_up_at = time.monotonic() + timeout_s
    while any(link.is_open for link in links) and time.monotonic() < give_up_at:
        for link in links:
            link.events(_ASK_S)
    left = sum(link.is_open for link in links)
    for link in links:
        link.close()
    return len(links), left


def ask_all(spool_directory: Path, *, timeout_s: float = 1.0) -> list[Event]:
    """What each engine of a directory says of itself: pid, since, and its runs (path, is_running, next_at, problem)."""
    found = []
    for link in find_all(spool_directory):
        link.tell({"do": "status"})
        give_up_at = time.monotonic() + timeout_s
        while link.is_open and time.monotonic() < give_up_at:
            told = [event for event in link.events(give_up_at - time.monotonic()) if event["event"] == "status"]
            if told:
                found += told
                break
        link.close()
    return found
