"""Warnings for people on stderr: in one form, and the same one at most every ten minutes, with a count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streaming.cli.terminal.screen import Screen

REPEAT_S = 600.0
PREFIX = "tracker-stream: "


class Repeats(logging.Filter):
    """Lets a message through if it was not there in the last ten minutes, and then tells how often it was held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = record.getMessage(), self._clock()
        shown_at, held_back = self._seen.get(text, (float("-inf"), 0))
        if now - shown_at < REPEAT_S:
            self._seen[text] = (shown_at, held_back + 1)
            return False
        self._seen[text] = (now, 0)
        if held_back:
            record.msg, record.args = "%s (%d times since)", (text, held_back)
        return True


class ToScreen(logging.Handler):
    """Our prefix and the message on stderr, above whatever is redrawn there."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._screen.say(PREFIX + record.getMessage())
        except Exception:  # noqa: BLE001 - logging's own way: a log line must not end the program
            self.handleError(record)


def log_to_stderr(screen: Screen, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
    """Warnings (errors only if `quiet`) of ours and of the libraries go to stderr from here on."""
    handler = ToScreen(screen)
    handler.addFilter(Repeats(clock))
    logging.basicConfig(handlers=[handler], level=logging.ERROR if quiet else logging.WARNING, force=True)
    for chatty in ("urllib3", "botocore", "boto3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
