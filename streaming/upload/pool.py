"""Several runs delivered at once, each by a worker process of its own (`streaming.upload.worker`).

The pool hands out runs, listens, and ends workers. It knows no network and no terminal: whoever uses it gets events.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streaming.processes import launch
from streaming.upload.drain import Outcome

PATIENCE_S = 60.0  # how long a run may get nowhere
TICK_S = 0.25
GRACE_S = 5.0  # after its deadline, a worker amid a request is ended
ERROR = "error"
NOT_TRIED = "not tried"

# A fresh interpreter that finds what we found, and nothing in the directory where the user happens to be.
_BOOT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
sys.path += [entry for entry in sys.argv[1:] if entry not in sys.path]
from streaming.upload.worker import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Terms:
    """What holds for all runs of a worker. `patience_s`: how long a run may get nowhere before the next one's turn."""

    token: str
    api_url: str
    s3_endpoint_url: str | None
    has_ended: bool = False
    spares_recent: bool = False
    anew: bool = False
    waits_for_token: bool = False

    def as_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass
class Result:
    """What became of one run: an `Outcome`'s value, "error" or "not tried"; what stood in the way; what was sent."""

    path: Path
    outcome: str = NOT_TRIED
    problem: str | None = None
    cause: str | None = None
    sent_rows: int = 0
    sent_bytes: int = 0

    @property
    def is_unreachable(self) -> bool:
        return self.outcome == Outcome.WAITING.value and bool(self.cause)


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    result: Result | None = None
    ends_at: float = float("inf")
    unread: bytearray = field(default_factory=bytearray)

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: seen by the end of its stdout
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def call_back(self) -> None:
        """Ask it to come to an end, between two segments or two attempts."""
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def close_pipes(self) -> None:
        self.call_back()
        if self.process.stdout is not None:
            self.process.stdout.close()


class DrainPool:
    """Delivers the runs of one call. `on_event` gets (result, event) whenever something happened to a run."""

    def __init__(
        self,
        terms: Terms,
        *,
        jobs: int,
        timeout_s: float | None = None,
        patience_s: float = PATIENCE_S,
        on_event: Callable[[Result, dict[str, Any]], None] = lambda _result, _event: None,
        on_tick: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._terms = terms
        self._jobs = jobs
        self._deadline_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        self._full_patience_s = self._patience_s = patience_s
        self._on_event = on_event
        self._on_tick = on_tick
        self._should_stop = should_stop
        self._selector = selectors.DefaultSelector()
        self._workers: set[_Worker] = set()
        self._waiting: deque[Result] = deque()

    def __enter__(self) -> DrainPool:
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers. Kill-safe is what delivery is: one that is ended amid a PUT has lost nothing."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.close_pipes()
            worker.process.wait()
        self._workers.clear()
        self._selector.close()

    def run(self, paths: Iterable[Path]) -> list[Result]:
        """Bring every run as far as it goes; results in the order of `paths`. May be called again; workers are kept."""
        results = [Result(path) for path in paths]
        self._waiting = deque(results)
        for worker in [*self._workers]:
            self._hand_out(worker)
        for _ in range(min(self._jobs - len(self._workers), len(self._waiting))):
            self._start_worker()
        while any(worker.result for worker in self._workers):
            self._listen()
            self._end_overdue()
            self._on_tick()
        return results

    def _start_worker(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *launch.import_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=launch.environment([self._terms.token]),
            start_new_session=True,  # Ctrl-C is for us; we tell the workers
        )
        worker = _Worker(process)
        worker.send(self._terms.as_line())
        self._workers.add(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._hand_out(worker)

    def _hand_out(self, worker: _Worker) -> None:
        """Give the worker its next run, if there is one and time for it; else it idles."""
        left_s = self._deadline_at - time.monotonic()
        has_next = self._waiting and left_s > 0 and not self._should_stop()
        worker.result = self._waiting.popleft() if has_next else None
        if worker.result is None:
            return
        timeout_s = None if left_s == float("inf") else left_s
        worker.ends_at = self._deadline_at + GRACE_S
        order = {"path": str(worker.result.path), "timeout_s": timeout_s, "patience_s": self._patience_s}
        worker.send(json.dumps(order).encode() + b"\n")
        self._on_event(worker.result, {"event": "began"})

    def _listen(self) -> None:
        for key, _ in self._selector.select(TICK_S):
            worker: _Worker = key.data
            piece = os.read(key.fd, 1 << 16)
            if not piece:
                self._bury(worker)
                continue
            worker.unread += piece
            *lines, rest = bytes(worker.unread).split(b"\n")
            worker.unread = bytearray(rest)
            for line in lines:
                self._hear(worker, json.loads(line))

    def _hear(self, worker: _Worker, event: dict[str, Any]) -> None:
        result = worker.result
        if result is None:
            return
        if event["event"] == "sent":
            result.sent_rows, result.sent_bytes = event["rows"], event["bytes"]
        elif event["event"] == "problem":
            result.problem, result.cause = event["text"], event["cause"]
        elif event["event"] == "done":
            result.outcome, result.problem, result.cause = event["outcome"], event["problem"], event["cause"]
            self._learn(result)
        self._on_event(result, event)
        if event["event"] == "done":
            self._hand_out(worker)

    def _learn(self, result: Result) -> None:
        """A refused token is refused for every run. After one run waited in vain, the others get a single attempt each."""
        if result.outcome == Outcome.TOKEN_REFUSED.value:
            for other in self._waiting:
                other.problem, other.cause = "not tried, because the service refuses the token", result.cause
            self._waiting.clear()
        elif result.sent_rows or result.outcome in (Outcome.DELIVERED.value, Outcome.UPLOADED.value):
            self._patience_s = self._full_patience_s
        elif result.is_unreachable:
            self._patience_s = 0.0

    def _bury(self, worker: _Worker) -> None:
        """A worker has ended. If it was amid a run, that run is at fault or it was ended by us; the others go on."""
        self._selector.unregister(worker.process.stdout or -1)
        worker.close_pipes()
        code = worker.process.wait()
        self._workers.discard(worker)
        result, worker.result = worker.result, None
        if result is None:
            return
        if time.monotonic() >= self._deadline_at or self._should_stop():
            result.outcome = Outcome.WAITING.value
        else:
            result.outcome, result.cause, result.problem = ERROR, "defect", f"its worker process ended with {code}"
        self._on_event(result, {"event": "done"})
        if self._waiting:
            self._start_worker()

    def _end_overdue(self) -> None:
        """Past the deadline a request may still hang for a minute; and a stop is a stop."""
        for worker in self._workers:
            if self._should_stop():
                self._waiting.clear()
                worker.ends_at = min(worker.ends_at, time.monotonic() + GRACE_S)
                worker.call_back()
            if time.monotonic() > worker.ends_at:
                worker.process.terminate()
