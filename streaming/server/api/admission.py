"""How many requests one caller may have in hand at a time, so that nobody's hold up everybody else's.

Requests are served by a bounded number of threads. Whoever has their share in hand waits in line here, in front of the
threads; where the line is long or the wait too, the answer is 429 with words. What a tenant only looks at is counted
apart from what its uploaders send: a page never holds up a delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NoReturn

from fastapi import HTTPException

LOOKING, DELIVERING = "looking", "delivering"
RETRY_AFTER_S = 2


@dataclass(frozen=True)
class Share:
    """Of one caller: requests in hand, requests in line, and how long one may stand there."""

    at_once: int = 6
    in_line: int = 60
    wait_s: float = 10.0


@dataclass
class _Desk:
    slots: asyncio.Semaphore
    present: int = field(default=0)


class Admission:
    """Of one event loop. Holds nothing of callers that have no request here."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._desks: dict[tuple[int, str], _Desk] = {}

    @property
    def callers(self) -> int:
        """How many have a request here now."""
        return len(self._desks)

    @contextlib.asynccontextmanager
    async def turn(self, caller: int, doing: str) -> AsyncIterator[None]:
        """Wait for the caller's turn, and hold it for the length of the block. Raises HTTPException 429."""
        desk = self._desks.setdefault((caller, doing), _Desk(asyncio.Semaphore(self._share.at_once)))
        if desk.present >= self._share.at_once + self._share.in_line:
            self._refuse()
        desk.present += 1
        try:
            await self._wait(desk)
            try:
                yield
            finally:
                desk.slots.release()
        finally:
            desk.present -= 1
            if desk.present == 0:
                del self._desks[caller, doing]

    async def _wait(self, desk: _Desk) -> None:
        try:
            await asyncio.wait_for(desk.slots.acquire(), self._share.wait_s)
        except asyncio.TimeoutError:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise HTTPException(
            429,
            f"This token has {self._share.at_once} requests in hand and more in line: ask again a little later.",
            {"Retry-After": str(RETRY_AFTER_S)},
        )
