"""What the engine, and those who give it orders, say to each other of runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from spool import SpoolError
from streaming.errors import StreamError


class Outcome(str, Enum):
    """What became of a run in a turn, or in a drain."""

    DELIVERED = "delivered"  # finished, the service has acknowledged it
    UPLOADED = "uploaded"  # everything that is there was sent; its tracker may still live, so it is not finished
    BUSY = "busy"  # another process delivers it
    GOES_ON = "goes on"  # a segment was sent, and there is more
    WAITING = "waiting"  # something stands in the way, and it is tried again
    PARKED = "parked"  # a person must decide
    TOKEN_REFUSED = "token refused"  # the service refuses the token
    NOT_OURS = "not ours"  # somebody else's run, or one that its own tracker's engine delivers
    ERROR = "error"  # it cannot be read, or is for another service
    NOT_TRIED = "not tried"  # a drain was over before its turn


@dataclass(frozen=True)
class Terms:
    """With which token, and where to."""

    token: str = field(repr=False)
    api_url: str
    s3_endpoint_url: str | None


@dataclass(frozen=True)
class Wishes:
    """What a person asks for, once. `has_ended`, `spares_recent`: as in `life.tracker_is_gone`. `anew`: register a parked
    run again, and try again what was rejected. `anywhere`: also if it was recorded for another service."""

    has_ended: bool = False
    spares_recent: bool = False
    anew: bool = False
    anywhere: bool = False


NO_WISHES = Wishes()


@dataclass(frozen=True)
class Turn:
    """How a turn went. `wait_s`: when the next one has a point. `is_open`: whether rows may still come."""

    outcome: Outcome
    wait_s: float = 0.0
    problem: StreamError | SpoolError | None = None
    is_open: bool = False
    sent_rows: int = 0  # since the first turn
    sent_bytes: int = 0
    answer: dict[str, Any] | None = None  # the service's, to finish
