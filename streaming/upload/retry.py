"""The one retry policy: what is tried again, after which wait, and what interrupts a wait. Built on tenacity."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

import tenacity

from spool.errors import SpoolFull
from streaming.errors import GaveUp, NoRoom, StreamError, Transient, Unauthorized

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 900.0
UNAUTHORIZED_PAUSE_S = 300.0

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Pause(Protocol):
    """How a loop waits: may return early when asked to hurry. Raises GaveUp when the time is over."""

    def wait(self, seconds: float) -> None: ...


def persistently(
    step: Callable[[], Result],
    *,
    pause: Pause,
    report: Callable[[StreamError | None], None],
    progress: Callable[[], int] = lambda: 0,
    waits_for_token: Callable[[], bool] = lambda: True,
    jitter: random.Random | None = None,
) -> Result:
    """Call `step` until it returns, for ever: Transient (and a full disk) after a backoff, Unauthorized after 5 minutes.

    `report` gets the problem when it changes the next wait, None when the step came through. `progress` counts
    what was achieved: a failure after some progress starts the backoff anew. Raises GaveUp from `pause`, and every
    error of another type from `step`; Unauthorized too, once it no longer `waits_for_token`.
    """
    backoff = _Backoff(progress, jitter or random.Random())

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        report(error if isinstance(error, StreamError) else None)

    def is_retried(error: BaseException) -> bool:
        return isinstance(error, Transient) or (isinstance(error, Unauthorized) and waits_for_token())

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retried),
        wait=backoff,
        sleep=pause.wait,
        before_sleep=before_sleep,
        reraise=True,
    )
    result: Result = retrying(_with_room_awaited, step)
    report(None)
    return result


def _with_room_awaited(step: Callable[[], Result]) -> Result:
    """A full disk passes, as an outage does: what was stored meanwhile is stored again under the same key."""
    try:
        return step()
    except SpoolFull as full:
        raise NoRoom(full.message, cause="disk full", hint=full.hint) from full


class _Backoff(tenacity.wait.wait_base):
    """Exponential with full jitter, never less than the far end asked for, starting anew after progress."""

    def __init__(self, progress: Callable[[], int], jitter: random.Random) -> None:
        self._progress = progress
        self._jitter = jitter
        self._achieved = progress()
        self._failures = 0

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, Unauthorized):
            return UNAUTHORIZED_PAUSE_S
        self._count_failure()
        ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        asked_s = min(error.retry_after_s or 0.0, RETRY_AFTER_MAX_S) if isinstance(error, Transient) else 0.0
        return asked_s + self._jitter.uniform(0.0, ceiling_s)

    def _count_failure(self) -> None:
        achieved = self._progress()
        self._failures = 0 if achieved > self._achieved else self._failures + 1
        self._achieved = achieved


__all__ = ["GaveUp", "Pause", "persistently"]
