"""A run in the engine: who waits for it, when its next turn is due, and what follows from the last one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming import config
from streaming.errors import Busy
from streaming.upload.model import NO_WISHES, Outcome, Terms, Turn, Wishes
from streaming.upload.peers import Peer
from streaming.upload.run_delivery import RunDelivery

HOPELESS_S = 300.0  # between two looks at a watched run that a person has to look at
HURRIED_INTERVAL_S = 1.0  # between two uploads of a run that is recorded, once it hurries
AWAITED_LOOK_S = 2.0  # how long a run waits at most, while a person waits for it
OVER = (Outcome.DELIVERED, Outcome.PARKED, Outcome.NOT_OURS, Outcome.ERROR)
AT_A_STANDSTILL = (Outcome.WAITING, Outcome.BUSY)


@dataclass(eq=False)
class Job:
    """A run in the engine. Only the main thread touches it, but for `delivery` while `is_running`.

    `is_adopted`: nobody asked for it. `is_watched`: `drain --watch` looks after it.
    """

    delivery: RunDelivery
    terms: Terms
    wishes: Wishes = NO_WISHES
    is_adopted: bool = False
    is_watched: bool = False
    interval_s: float = config.UPLOAD_INTERVAL_S
    linger_s: float | None = None  # after its end; None: only a drain wanted it
    trackers: set[Peer] = field(default_factory=set)
    drains: set[Peer] = field(default_factory=set)
    earlier_terms: Terms | None = None  # those of its tracker, while a drain's are tried
    due_at: float = 0.0
    ends_at: float = float("inf")  # given up then, unless somebody waits for it
    is_running: bool = False
    is_due_again: bool = False  # something happened while it ran
    awaited_at: float | None = None  # its tracker has ended it and waits, from then on
    is_open: bool = True
    pidfd: int | None = None
    last: Turn | None = None

    @property
    def path(self) -> Path:
        return self.delivery.path

    @property
    def peers(self) -> set[Peer]:
        return self.trackers | self.drains

    @property
    def is_awaited(self) -> bool:
        return self.awaited_at is not None

    @property
    def is_held(self) -> bool:
        """Whether a living tracker is behind it."""
        return bool(self.trackers) or self.pidfd is not None

    @property
    def may_be_given_up(self) -> bool:
        """Whether its time may be over: it gets nowhere, and nobody waits for it."""
        is_stuck = self.last is not None and self.last.outcome in AT_A_STANDSTILL and not self.is_running
        return is_stuck and not self.drains and not self.is_watched

    def is_over_after(self, turn: Turn, *, is_stopping: bool) -> bool:
        """Whether nothing is to be done any more, or nothing that can help."""
        if self.is_watched and not self.peers:
            return turn.outcome is Outcome.DELIVERED
        if turn.outcome in OVER or (self.is_adopted and turn.outcome is not Outcome.GOES_ON):
            return True
        is_recorded = turn.is_open and self.is_held and not is_stopping
        return turn.outcome in (Outcome.TOKEN_REFUSED, Outcome.UPLOADED) and not is_recorded

    def pause_s(self, turn: Turn, *, is_hurried: bool) -> float:
        """From this turn to the next."""
        if turn.outcome is Outcome.GOES_ON:
            return 0.0
        if turn.outcome is Outcome.UPLOADED:
            return HURRIED_INTERVAL_S if is_hurried else self.interval_s
        is_asked_to_wait = isinstance(turn.problem, Busy) and turn.problem.retry_after_s
        is_hasty = self.drains or self.is_awaited or is_hurried
        if turn.outcome in AT_A_STANDSTILL and is_hasty and not is_asked_to_wait:
            return min(turn.wait_s, AWAITED_LOOK_S)
        return turn.wait_s if turn.outcome not in OVER else HOPELESS_S


def ending(turn: Turn) -> dict[str, Any]:
    """What is told of a run that is over for the engine."""
    return {"outcome": turn.outcome.value, "answer": turn.answer, **problem(turn), **progress(turn)}


def progress(turn: Turn) -> dict[str, Any]:
    return {"rows": turn.sent_rows, "bytes": turn.sent_bytes}


def problem(turn: Turn) -> dict[str, Any]:
    """What stands in the way, and its cause in a word."""
    if turn.problem is None:
        return {"text": None, "cause": None}
    return {"text": str(turn.problem), "cause": getattr(turn.problem, "cause", "") or "unreadable"}
