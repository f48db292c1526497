"""What decides how an engine goes on: what its spool's file holds, where it is paused, and what its variables hold."""

from __future__ import annotations

import dis
import operator
import sqlite3
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

import greenlet

from spool import Run, RunState, Segment, Spool, system
from spool.spool import SEGMENT_MAX_BYTES
from streaming.upload import delivery
from streaming.upload.run_delivery import RunDelivery
from tests.support.memory_far_end import MemoryFarEnd

NOW = 1e9
OURS = (str(Path(delivery.__file__).parent), str(Path(system.__file__).parent))
CONTENT = {
    "run": "spool_id, state, run_id, upload_uri_prefix, exit_code, run_status, parked",
    "segment": "seq, first_batch_id, last_batch_id, sha256, state, uri, refusal_count",
    "batch": "batch_id, sha256",
}
DEAD = frozenset({"sent_count"})  # a variable that decides nothing while nothing is refused


def pause(name: str) -> None:
    """Let others go on. Within a transaction nobody could: SQLite makes them wait."""
    parent = greenlet.getcurrent().parent
    if parent is not None and name.partition(":")[2] in ("", "sending", "replied"):
        parent.switch(name)


def frames(frame: FrameType | None, may_refuse: bool) -> Iterator[tuple[Any, ...]]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            yield _frame(frame, may_refuse)
        frame = frame.f_back


def _frame(frame: FrameType, may_refuse: bool) -> tuple[Any, ...]:
    """A frame's place and variables, and what its loops still hold."""
    needed = _needed(frame.f_code, frame.f_lasti) - (frozenset() if may_refuse else DEAD)
    values = tuple((name, _value(value)) for name, value in sorted(frame.f_locals.items()) if name in needed)
    return frame.f_code.co_name, frame.f_lasti, values


@cache
def _needed(code: CodeType, at: int) -> frozenset[str]:
    """The variables that may still be read from there on: further down (handlers of exceptions are there, too), in what
    a loop leads back to, or by a function within."""
    instructions = [*dis.get_instructions(code)]
    jumps = [each.argval for each in instructions if each.offset > at and each.opcode in (*dis.hasjrel, *dis.hasjabs)]
    first = min([at, *jumps])
    names = [each.argval for each in instructions if each.offset >= first and "LOAD" in each.opname]
    read = {part for name in names for part in (name if isinstance(name, tuple) else (name,))}
    return frozenset(read | {*code.co_cellvars})


def _value(value: object) -> object:
    if isinstance(value, SeenSpool):
        return value.position()
    if isinstance(value, Run):
        return value.state, value.parked, value.registration, value.exit_code, value.run_status
    if isinstance(value, (MemoryFarEnd, sqlite3.Connection, RunDelivery)) or callable(value) or hasattr(value, "query"):
        return ""
    return repr(value)


class SeenSpool(Spool):
    """A spool that pauses at failpoints, and whose sealing can be looked at: no frame shows what its loops go through."""

    sealing: Generator[Segment, None, None] | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, step=pause, clock=lambda: NOW)

    def seal_pending(self, max_bytes: int = SEGMENT_MAX_BYTES) -> Iterator[Segment]:
        self.sealing = cast("Generator[Segment, None, None]", super().seal_pending(max_bytes))
        return self.sealing

    def position(self) -> tuple[Any, ...]:
        at = self.sealing.gi_frame if self.sealing is not None else None
        if self.sealing is None or at is None:
            return (self.marked_count,)
        left = operator.length_hint(self.sealing.gi_yieldfrom or ())
        needed = _needed(at.f_code, at.f_lasti) - {"self"}
        plain = sorted((name, repr(value)) for name, value in at.f_locals.items() if name in needed)
        return self.marked_count, at.f_lasti, plain, left


class Eyes:
    """Looks into spools from outside, by connections of its own that are kept while the file is the same."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, sqlite3.Connection]] = {}

    def ask(self, path: Path, question: str) -> list[Any]:
        number = path.stat().st_ino
        if path not in self._open or self._open[path][0] != number:
            self.close(path)
            self._open[path] = number, sqlite3.connect(path)
        return self._open[path][1].execute(question).fetchall()

    def close(self, path: Path) -> None:
        if path in self._open:
            self._open.pop(path)[1].close()

    def close_all(self) -> None:
        for path in [*self._open]:
            self.close(path)

    def content(self, path: Path) -> list[Any]:
        """All that decides how it can go on: not what is told to people about problems."""
        return [self.ask(path, f"SELECT {columns} FROM {table}") for table, columns in CONTENT.items()]

    def state(self, path: Path) -> RunState:
        return RunState(self.ask(path, "SELECT state FROM run")[0][0])

    def is_over(self, path: Path) -> bool:
        """Whether no turn changes anything any more, unless a person asks for it."""
        ((state, parked),) = self.ask(path, "SELECT state, parked FROM run")
        return RunState(state) is RunState.FINISHED or parked is not None
