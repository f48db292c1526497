"""An engine on a stage: a file, a far end in memory, and a tracker that lives or not; no threads, no clock.

It takes real turns (`RunDelivery.turn`) as a coroutine (greenlet) that pauses at every named failpoint outside a
transaction: what is inside one is not seen by others, and to crash there is to crash before it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import greenlet

from spool import Spool, ownership
from spool.database import connection
from spool.recovery import recover
from streaming.upload import run_delivery
from streaming.upload.model import NO_WISHES, Outcome, Terms, Wishes
from streaming.upload.reachability import Reached
from streaming.upload.run_delivery import RunDelivery
from tests.model.positions import NOW, SeenSpool, frames
from tests.support import memory_far_end, plays
from tests.support.memory_far_end import MemoryFarEnd

MEMORY = Path("/dev/shm")
CALLS = {"register:sending": "register", "upload:sending": "put", "finish:sending": "finish"}
OUTCOMES = {
    "": memory_far_end.FINE,
    "lost": memory_far_end.REPLY_LOST,
    "down": memory_far_end.DOWN,
    "unauthorized": memory_far_end.UNAUTHORIZED,
    "refused": memory_far_end.REFUSED,
}
TERMS = Terms("", "", None)
WITHOUT_JOURNAL = {"journal_mode": "memory", "synchronous": "off"}  # nobody dies within a transaction here


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Stage:
    """What an engine sees of the world."""

    path: Path
    far_end: MemoryFarEnd = field(default_factory=MemoryFarEnd)
    tracker_is_dead: bool = False


class Engine:
    """One process that delivers: it runs until the next failpoint each time it is resumed."""

    def __init__(self, stage: Stage, wishes: Wishes = NO_WISHES) -> None:
        self._stage = stage
        self._wishes = wishes
        self._running: greenlet.greenlet | None = None
        self.paused_at = ""

    def go_on(self, fault: str = "") -> None:
        """Begin a turn, or go on with the one under way, up to the next failpoint or its end."""
        if self._running is None:
            self._running = greenlet.greenlet(self._turn)
            self._running.stage = self._stage
        if call := CALLS.get(self.paused_at):
            self._stage.far_end.outcomes[call].append(OUTCOMES[fault])
        try:
            at = self._running.switch()
        finally:
            self._stage.far_end.outcomes.clear()
        self.paused_at = at if isinstance(at, str) else ""
        if self._running.dead:
            self._running = None

    def crash(self) -> None:
        if self._running is not None:
            with suppress(Crash):
                self._running.throw(Crash())
        self._running, self.paused_at = None, ""

    def _turn(self) -> None:
        far_end = cast(Reached, self._stage.far_end)
        delivery = RunDelivery(self._stage.path, lambda _terms: far_end, clock=lambda: 0.0)
        turn = delivery.turn(TERMS, self._wishes)
        if turn.outcome is Outcome.ERROR or getattr(turn.problem, "cause", "") == "defect":
            raise AssertionError(f"a turn ends with {turn.problem!r}")

    def position(self, *, may_refuse: bool) -> tuple[Any, ...]:
        """Where it is and what its variables hold: two engines with the same position go on in the same way."""
        if self._running is None:
            return ()
        return (self.paused_at, *frames(self._running.gr_frame, may_refuse))


@contextmanager
def made() -> Iterator[Path]:
    """A private folder in memory with the spool that every world begins with.

    Inside the block locks lie, spools pause at failpoints, and the tracker is what the stage says.
    """
    place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        stack.enter_context(mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(place / "state")}))
        stack.enter_context(mock.patch.dict(connection.PRAGMAS, WITHOUT_JOURNAL))
        for target, name, stand_in in _stand_ins():
            stack.enter_context(mock.patch.object(target, name, stand_in))
        logger = logging.getLogger("streaming")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        new = replace(plays.new_run(token=""), started_at=NOW)
        with closing(Spool.create(place, new, clock=lambda: NOW)) as spool:
            path = spool.path
        path.rename(path.with_suffix(".template"))
        (place / "elsewhere").mkdir(mode=0o700)
        yield place


def _stand_ins() -> list[tuple[Any, str, Callable[..., Any]]]:
    def own(_path: Path) -> AbstractContextManager[None]:
        return nullcontext()

    def tracker_is_gone(_spool: Spool, **_: Any) -> bool:
        return cast(Stage, greenlet.getcurrent().stage).tracker_is_dead

    return [(ownership, "own", own), (recover, "Spool", SeenSpool), (run_delivery, "tracker_is_gone", tracker_is_gone)]
