"""The room on each mounted file system. A mount whose server is gone never answers: it must hold nobody up.

Mounts are asked by a thread of their own. One that has not answered within `ANSWER_S` is left out from then on, told once,
and the thread that waits for it is left to it (it cannot be interrupted); another one asks the others.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Protocol

ANSWER_S = 1.0
_VIRTUAL = (b"/proc", b"/sys", b"/dev", b"/run")
_ESCAPED = re.compile(rb"\\([0-7]{3})")

log = logging.getLogger(__name__)


class Room(Protocol):
    """What is used of os.statvfs's answer."""

    @property
    def f_blocks(self) -> int: ...
    @property
    def f_frsize(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...


class Mounts:
    """Room by mount point, in bytes, of the file systems in a text of /proc/mounts."""

    def __init__(self, ask: Callable[[bytes], Room] = os.statvfs) -> None:
        self._ask = ask
        self._table = b""
        self._points: list[bytes] = []
        self._left_out: set[bytes] = set()
        self._asker: _Asker | None = None

    def spaces(self, table: bytes) -> dict[str, dict[str, int]]:
        """Takes ANSWER_S at most, and once for each mount that does not answer."""
        if table != self._table:
            self._table, self._points = table, mount_points(table)
        spaces = {}
        for point in self._points:
            room = None if point in self._left_out else self._answer(point)
            if room is not None and room.f_blocks:
                total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
                spaces[os.fsdecode(point)] = {"total": total, "used": total - free, "free": free}
        return spaces

    def _answer(self, point: bytes) -> Room | None:
        self._asker = self._asker or _Asker(self._ask)
        if self._asker.ask(point):
            return self._asker.answer
        self._left_out.add(point)
        self._asker = None
        log.warning("mount.silent: %s does not answer; its room is left out of this run", os.fsdecode(point))
        return None


class _Asker:
    """One thread that asks one mount at a time."""

    def __init__(self, ask: Callable[[bytes], Room]) -> None:
        self.answer: Room | None = None
        self._ask = ask
        self._point = b""
        self._asked, self._answered = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._serve, name="tracker-stream-mounts", daemon=True).start()

    def ask(self, point: bytes) -> bool:
        """Whether there is an `answer` in time (None: it can only say that it cannot say)."""
        self._point = point
        self._asked.release()
        return self._answered.acquire(timeout=ANSWER_S)

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            try:
                self.answer = self._ask(self._point)
            except OSError:
                self.answer = None
            self._answered.release()


def mount_points(table: bytes) -> list[bytes]:
    """Where file systems that hold files are mounted. The kernel writes blanks in a path as octal numbers."""
    points = (line.split()[1] for line in table.splitlines())
    return [_ESCAPED.sub(_character, point) for point in points if not point.startswith(_VIRTUAL)]


def _character(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8)])
