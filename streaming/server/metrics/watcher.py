"""Reads live runs in the background, so that a page finds their rows read already, and computes figures that a finish lacked.

One thread. A run is looked at the more rarely the longer it has been silent, and never so often that looking takes more
than a small part of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from streaming.server.errors import Unavailable
from streaming.server.metrics.reader import RunReader, compute_statistics
from streaming.server.storage.runs import RegisteredRun, RunStore
from streaming.server.storage.seen import Seen, Sketch

_log = logging.getLogger("uvicorn.error")

_TICK_S = 1.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 3.0, 300.0
_SHARE_OF_SILENCE = 0.1
_SHARE_OF_TIME = 0.05
_SHARE_OF_UPLOAD_PAUSE = 0.3
_LOOK_TIMEOUT_S = 30.0
_OUTAGE_PAUSE_S = 10.0
_TIDY_EVERY_S = 600.0
_REPAIRED_FOR = timedelta(days=1)


@dataclass
class _Plan:
    """When a run is looked at again, and since when it has not changed."""

    due_at: float = 0.0
    changed_at: float = 0.0
    seen: Seen | None = None
    sketch: Sketch = field(default_factory=Sketch)
    noted: Seen | None = None  # the list knows


class Watcher:
    """Start it once; `stop` returns when the look under way has ended."""

    def __init__(self, runs: RunStore, reader: RunReader) -> None:
        self._runs = runs
        self._reader = reader
        self._plans: dict[str, _Plan] = {}
        self._tidy_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="server-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        pause_s = _TICK_S
        while not self._stop.wait(pause_s):
            try:
                self.look()
                pause_s = _TICK_S
            except (Unavailable, OSError) as exc:
                if pause_s == _TICK_S:
                    _log.warning("watcher_unavailable %s", exc)
                pause_s = _OUTAGE_PAUSE_S

    def look(self) -> None:
        """Once over every run that is due."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + _TIDY_EVERY_S
            self._reader.tidy()
        open_runs = self._runs.unsettled(finished_after=datetime.now(timezone.utc) - _REPAIRED_FOR)
        self._plans = {run.run_id: self._plans.get(run.run_id, _Plan()) for run in open_runs}
        for run in open_runs:
            if self._stop.is_set():
                return
            if self._plans[run.run_id].due_at <= time.monotonic():
                self._look_safely_at(run, self._plans[run.run_id])
        changed = [(run_id, plan) for run_id, plan in self._plans.items() if plan.seen is not plan.noted]
        if changed:
            self._runs.listing.note_rows([(run_id, plan.seen, plan.sketch) for run_id, plan in changed if plan.seen])
        for _, plan in changed:
            plan.noted = plan.seen

    def _look_safely_at(self, run: RegisteredRun, plan: _Plan) -> None:
        """Whatever one run's rows do to us, the other runs are looked at. Raises Unavailable, OSError: those meet all."""
        try:
            self._look_at(run, plan)
        except (Unavailable, OSError):
            raise
        except Exception as defect:  # noqa: BLE001 - rows may be anything
            _log.warning("run_not_watched %s %s", run.run_id, type(defect).__name__, exc_info=defect)
            plan.due_at = time.monotonic() + _LONGEST_PAUSE_S

    def _look_at(self, run: RegisteredRun, plan: _Plan) -> None:
        started = time.monotonic()
        if run.is_finished:
            compute_statistics(run, self._runs, self._reader, timeout_s=_LOOK_TIMEOUT_S)
        else:
            rows = self._reader.read(run, fresh_s=0, timeout_s=_LOOK_TIMEOUT_S).rows
            if rows.seen != plan.seen:
                plan.sketch = self._reader.using(run, lambda reading: reading.rows.sketch)
                plan.seen, plan.changed_at = rows.seen, started
        now = time.monotonic()
        pause = max((now - plan.changed_at) * _SHARE_OF_SILENCE, self._shortest_pause_s(plan))
        plan.due_at = now + max(min(pause, _LONGEST_PAUSE_S), (now - started) / _SHARE_OF_TIME)

    @staticmethod
    def _shortest_pause_s(plan: _Plan) -> float:
        """A run whose objects come a minute apart need not be asked for one every few seconds: a page asks by itself."""
        usual_s = plan.seen.usual_pause_s if plan.seen else 0.0
        return max(_SHORTEST_PAUSE_S, usual_s * _SHARE_OF_UPLOAD_PAUSE)
