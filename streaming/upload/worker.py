"""A worker of `drain`: a process that delivers one run after the other, as its parent names them, and tells how it goes.

A process and not a thread, because the wall-clock deadline of a request works in a main thread only, and because a run
that takes a process down with it must not take the others.

It reads JSON lines on stdin: first a `Terms` object (with the token: neither argv nor the environment hold it), then one
{"path": ...} per run. It writes JSON lines on stdout: {"event": "sent" | "problem" | "warning" | "done", ...}. When its
stdin ends or has something to read amid a run, that means: come to an end. It may be killed at any time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time as clock
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from spool import Spool, SpoolError, queries
from streaming.clients.connect import Clients
from streaming.errors import GaveUp, StreamError
from streaming.processes.system import wait_readable
from streaming.upload.drain import Outcome, drain_run
from streaming.upload.pool import Terms

REPORT_S = 0.3
Tell = Callable[..., None]


class RunTime:
    """How long this run may still take: until its deadline, its patience, or its parent's word. Tells progress."""

    def __init__(self, *, timeout_s: float | None, patience_s: float, told: Callable[[], None]) -> None:
        self._deadline_at = clock.monotonic() + timeout_s if timeout_s is not None else float("inf")
        self._patience_s = patience_s
        self._moved_at = clock.monotonic()
        self._told = told
        self._is_attempt_new = True
        self._is_called_back = False

    def has_time(self) -> bool:
        """Asked before each segment: from the second one of an attempt on, the one before came through."""
        if not self._is_attempt_new:
            self._moved_at = clock.monotonic()
        self._is_attempt_new = False
        self._told()
        return not self._called_back(0.0) and clock.monotonic() < self._deadline_at

    def wait(self, seconds: float) -> None:
        """Between two attempts. Raises GaveUp when it is of no use to try again."""
        self._is_attempt_new = True
        now = clock.monotonic()
        until = min(self._deadline_at, self._moved_at + self._patience_s)
        if now + seconds > until and self._patience_s <= 0:
            raise GaveUp("the target cannot be reached")
        if self._called_back(max(0.0, min(seconds, until - now))) or clock.monotonic() >= until:
            raise GaveUp("the time for delivery is over")

    def _called_back(self, seconds: float) -> bool:
        """Whether the parent wants us to end, or is gone, within so many seconds."""
        self._is_called_back = self._is_called_back or bool(wait_readable([0], seconds))
        return self._is_called_back


class _Progress:
    """Tells rows and bytes sent of one run, a few times a second at most."""

    def __init__(self, path: Path, tell: Tell) -> None:
        self._path = path
        self._tell = tell
        self._told_at = 0.0
        self._before = _sent(path)

    def tell(self, *, is_last: bool = False) -> None:
        if not is_last and clock.monotonic() - self._told_at < REPORT_S:
            return
        now = _sent(self._path)
        self._tell("sent", rows=now[0] - self._before[0], bytes=now[1] - self._before[1])
        self._told_at = clock.monotonic()


def _sent(path: Path) -> tuple[int, int]:
    """Rows and CSV bytes that S3 holds."""
    with suppress(SpoolError), closing(Spool(path)) as spool:
        return queries.sent_amount(spool.connection)
    return 0, 0


class _TellWarnings(logging.Handler):
    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("warning", text=record.getMessage())


def main() -> int:
    """The worker's entry."""
    tell = _teller(os.dup(1))
    os.dup2(2, 1)  # whatever prints must not get between our lines
    logging.basicConfig(handlers=[_TellWarnings(tell)], level=logging.WARNING)
    terms = Terms(**json.loads(_read_line()))
    clients = Clients.connect(terms.token, api_url=terms.api_url, s3_endpoint_url=terms.s3_endpoint_url)
    while line := _read_line():
        order = json.loads(line)
        tell("done", **_deliver(Path(order["path"]), terms, clients, tell, order))
    return 0


def _deliver(path: Path, terms: Terms, clients: Clients, tell: Tell, order: dict[str, Any]) -> dict[str, Any]:
    """Bring one run as far as it goes; whatever happens becomes an outcome and, if it did not go well, words."""
    progress = _Progress(path, tell)
    time = RunTime(timeout_s=order["timeout_s"], patience_s=order["patience_s"], told=progress.tell)
    last: list[StreamError] = []

    def report(problem: StreamError | None) -> None:
        last[:] = [problem] if problem else []
        if problem:
            tell("problem", text=str(problem), cause=problem.cause)

    try:
        outcome = drain_run(
            path,
            clients,
            time,
            api_url=terms.api_url,
            has_ended=terms.has_ended,
            spares_recent=terms.spares_recent,
            anew=terms.anew,
            waits_for_token=terms.waits_for_token,
            report=report,
        ).value
    except (SpoolError, StreamError) as error:
        return {"outcome": "error", "problem": str(error), "cause": getattr(error, "cause", "") or "unreadable"}
    except Exception as error:  # a defect that one run brings to light must not stop the others
        logging.getLogger(__name__).exception("drain.defect: %s", path)
        return {"outcome": "error", "problem": f"defect: {error!r}", "cause": "defect"}
    progress.tell(is_last=True)
    problem = last[0] if last and outcome != Outcome.DELIVERED.value else None
    return {
        "outcome": outcome,
        "problem": str(problem) if problem else None,
        "cause": problem.cause if problem else None,
    }


def _teller(descriptor: int) -> Tell:
    def tell(event: str, **content: Any) -> None:
        line = json.dumps({"event": event, **content}).encode() + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]

    return tell


def _read_line() -> bytes:
    """One line of stdin, unbuffered: what is not read yet must be seen by `RunTime`."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main())
