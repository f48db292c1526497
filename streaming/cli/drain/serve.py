"""`tracker-stream drain --watch`: be the engine of a directory, in the foreground, for every run that is recorded there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from streaming.cli.drain.results import state_after, tell_results
from streaming.cli.terminal.screen import Screen, stdout
from streaming.errors import LaunchFailed
from streaming.processes import engine_link, engine_socket
from streaming.read.status import STILL_WAITING, exit_code_of, summaries
from streaming.upload.drain import Result
from streaming.upload.engine import Engine
from streaming.upload.model import Outcome, Terms, Turn

TAKEOVER_S = 30.0  # how long another engine may take to come to an end
STOP_S = 5.0  # after Ctrl-C or SIGTERM
_LOOK_S = 0.1
_TOLD = (Outcome.DELIVERED, Outcome.PARKED, Outcome.TOKEN_REFUSED, Outcome.ERROR)


def serve(in_directory: Path, terms: Terms, *, timeout_s: float | None, screen: Screen) -> int:
    """Until SIGTERM, Ctrl-C or the timeout. One line for each run that was delivered or refused; 0, or 3 if some wait."""
    ends_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    engine = Engine(in_directory, ends_at=ends_at, on_turn=_Report())
    if in_directory.is_dir():
        engine.listen(_take_over(in_directory))
    engine.watch(terms)
    engine.heed_signals([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], hurry_s=STOP_S)
    screen.say(f"tracker-stream: serving {in_directory} for {terms.api_url}; end with Ctrl-C")
    engine.serve()
    return STILL_WAITING if exit_code_of(summaries(in_directory)) else 0


def _take_over(in_directory: Path) -> engine_socket.Claim:
    """Take the place of the engine in the background, whose trackers come to us. Raises LaunchFailed."""
    name = engine_socket.socket_name(in_directory)
    give_up_at = time.monotonic() + TAKEOVER_S
    while (claim := engine_socket.claim(name)) is None:
        if time.monotonic() >= give_up_at:
            raise LaunchFailed("another uploader serves this directory", hint="see: tracker-stream status")
        engine_link.stop_all(in_directory, timeout_s=_LOOK_S)
    return claim


class _Report:
    """A line whenever a run's state becomes one that is told."""

    def __init__(self) -> None:
        self._told: dict[Path, tuple[Outcome, str]] = {}

    def __call__(self, path: Path, turn: Turn) -> None:
        state = turn.outcome, str(turn.problem)
        if turn.outcome not in _TOLD or self._told.get(path) == state:
            return
        if turn.outcome is Outcome.DELIVERED:
            self._told.pop(path, None)
        else:
            self._told[path] = state
        text = str(turn.problem) if turn.problem else None
        result = Result(path, turn.outcome, text, getattr(turn.problem, "cause", None), turn.sent_rows)
        after = state_after(result)
        if turn.outcome is Outcome.DELIVERED or after.exit_code:
            tell_results([after], {}, stdout())
