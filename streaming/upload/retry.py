"""The one retry policy: what is tried again, and after which wait. Built on tenacity; whoever asks does the waiting."""

from __future__ import annotations

import random

import tenacity

from streaming.errors import Transient, Unauthorized

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 900.0
UNAUTHORIZED_PAUSE_S = 300.0


class Attempts:
    """The failures in a row of one thing that is tried again for ever."""

    def __init__(self, *, jitter: random.Random | None = None) -> None:
        self._jitter = jitter or random.Random()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Transient, Unauthorized)), wait=self._wait, reraise=True
        )
        self.begin_anew()

    def begin_anew(self) -> None:
        """Something was achieved, or the world is another one: the next failure counts as the first."""
        self._state = tenacity.RetryCallState(self._retrying, None, (), {})

    def failed(self, error: Exception) -> float:
        """Seconds to wait after this failure, with full jitter, and never less than was asked for.

        A refused token: 5 minutes. Raises `error` itself if trying again cannot help.
        """
        self._retrying.begin()  # tenacity counts for each thread
        self._state.set_exception((type(error), error, error.__traceback__))
        wait_s = self._retrying.iter(retry_state=self._state)
        assert isinstance(wait_s, float)
        if not isinstance(error, Unauthorized):
            self._state.prepare_for_next_attempt()
        return wait_s

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Unauthorized):
            return UNAUTHORIZED_PAUSE_S
        ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(state.attempt_number, 16))
        asked_s = min(error.retry_after_s or 0.0, RETRY_AFTER_MAX_S) if isinstance(error, Transient) else 0.0
        return asked_s + self._jitter.uniform(0.0, ceiling_s)
