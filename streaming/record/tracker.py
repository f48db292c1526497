"""Tracking: one process that samples at an interval, appends each row to the spool, and records the run's end.

Used by `tracker-stream run` and `attach` in their own process, and by `streaming.track` as a detached child (`main`).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spool import Batch, Spool, SpoolError, system
from streaming import config
from streaming.collect.procfs import MeasureProcess
from streaming.collect.sampler import Sampler, Use
from streaming.processes.system import wait_readable
from streaming.record.plan import Delivery, Plan
from streaming.record.recorder import Recorder
from streaming.record.row_buffer import RowBuffer

FIRST_SAMPLES_S = (0.05, 0.1, 0.2, 0.5)  # after the begin, so that a short run has a shape; then the interval
LAST_ROWS_S = 5.0
LAST_ROWS_POLL_S = 0.2

log = logging.getLogger(__name__)


class Tracking:
    """Samples one process tree into one run. `tick_if_due` every `wait_s`, `end` once.

    Whatever goes wrong with one sample, the next one begins anew: a defect costs rows, never the recording.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        pid: int,
        *,
        interval_s: float,
        on_sample: Callable[[Mapping[str, Any]], None] = lambda _values: None,
        since: Use | None = None,
        peaks_below_mib: float = 0.0,
        measure_process: MeasureProcess | None = None,
    ) -> None:
        """Usage counts from `since` on, else from now. `measure_process`: another way than by the process tree."""
        self.recorder = recorder
        self._on_sample = on_sample
        self._interval_s = interval_s
        self._new_sampler = functools.partial(
            Sampler, pid, since=since, peaks_below_mib=peaks_below_mib, measure_process=measure_process
        )
        self._sampler: Sampler | None = None
        self._buffer = RowBuffer()
        self._problem = ""
        self._defect = ""
        self.row_count = 0
        self._began_at = time.monotonic()
        self.next_at = self._began_at
        self._try(self._require_sampler)
        self._set_next()

    def tick(self) -> bool:
        """Take a sample and append it; False if the process is gone. A spool that cannot take rows is told once."""
        is_there = self._try(self._sample) is not False
        if self.recorder is not None:
            self._try(self._append_buffer)
            with suppress(SpoolError):  # a spool that cannot be read now was told of above
                self.recorder.tend()
        self._set_next()
        return is_there

    def wait_s(self) -> float:
        """How long to wait before `tick_if_due`: others are to see that we live, also where rows are rare."""
        return min(max(0.0, self.next_at - time.monotonic()), config.HEARTBEAT_S / 2)

    def tick_if_due(self) -> bool:
        """`tick`, or a sign of life until the next sample is due."""
        if time.monotonic() >= self.next_at:
            return self.tick()
        if self.recorder is not None:
            self.recorder.tend()
        return True

    def _require_recorder(self) -> Recorder:
        assert self.recorder is not None, "rows cannot be kept before there is a recorder"
        return self.recorder

    def _require_sampler(self) -> Sampler:
        self._sampler = self._sampler or self._new_sampler()
        return self._sampler

    def _sample(self) -> bool:
        sampler = self._require_sampler()
        return self._take(sampler.sample(), sampler)

    def _take(self, row: bytes | None, sampler: Sampler) -> bool:
        if row is None:
            return False
        self._buffer.add(row)
        self.row_count += 1
        self._on_sample(sampler.latest)
        return True

    def _try(self, part: Callable[[], Any]) -> Any:
        """None, and told once, if something went wrong that nobody foresaw."""
        try:
            return part()
        except Exception as defect:
            if self._defect != (told := repr(defect)):
                self._defect = told
                log.exception("tracker.defect: a sample failed; the next one is tried (please report this)")
            return None

    def _set_next(self) -> None:
        """The first ones soon, then one an interval; those that were missed are not made up for."""
        passed_s = time.monotonic() - self._began_at
        early = (after_s for after_s in FIRST_SAMPLES_S if passed_s < after_s < self._interval_s)
        next_s = next(early, (int(passed_s / self._interval_s) + 1) * self._interval_s)
        self.next_at = self._began_at + next_s

    def _append_buffer(self) -> bool:
        """Rows that could not be appended wait in memory, in order, for the next tick. Whether there are such."""
        if not self._buffer:
            return False
        try:
            self._require_recorder().append([Batch(self._require_sampler().header, self._buffer.joined())])
            self._buffer.clear()
            self._note_losses()
            self._problem = ""
        except SpoolError as error:
            if self._problem != error.message:
                self._problem = error.message
                log.warning("spool.unavailable: %s; rows wait in memory for the next try", error)
        return bool(self._buffer)

    def _note_losses(self) -> None:
        """Let the run itself say how many of its rows are lost. Raises SpoolError."""
        if self._buffer.lost_count:
            self._require_recorder().spool.add_lost_rows(self._buffer.lost_count)
            self._buffer.lost_count = 0

    def end(
        self, *, exit_code: int | None, run_status: str, ended_at: float | None = None, total: Use | None = None
    ) -> None:
        """Append what waits and, if `total` is known, the row that makes the sums true; record the end.

        If the spool cannot take even that, one warning says so.
        """
        if total is not None:
            self._try(lambda: self._take(self._require_sampler().last(total), self._require_sampler()))
        self._try(self._append_last_rows)
        try:
            self._require_recorder().end(exit_code=exit_code, run_status=run_status, ended_at=ended_at or time.time())
        except SpoolError as error:
            log.warning("spool.unavailable: the end of the run could not be recorded (%s)", error)

    def _append_last_rows(self) -> None:
        """A full disk gets a little time to have room again: afterwards the rows are nowhere but in this process."""
        give_up_at = time.monotonic() + LAST_ROWS_S
        while self._append_buffer() and time.monotonic() < give_up_at:
            time.sleep(LAST_ROWS_POLL_S)
        if lost := self._buffer.give_up():
            log.error("rows.lost: the last %d row(s) of the run could not be kept anywhere", lost)
        with suppress(SpoolError):  # told above
            self._note_losses()


def main(order: dict[str, Any]) -> int:
    """The detached child of `streaming.track`: samples the caller until told to end, or until the caller is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the caller; we end when it does
        signal.signal(number, signal.SIG_IGN)
    spool = Spool(Path(order["spool_path"]))
    spool.take_over(system.identify(os.getpid()))
    delivery = Delivery(**order["delivery"])
    begin = Use(**told) if (told := _next_word()) else None
    tracking = Tracking(None, order["pid"], interval_s=order["interval_s"], since=begin)
    tracking.tick()
    tracking.recorder = recorder = Recorder.adopt(spool, delivery)
    ending = _track_until_told(tracking)
    total = Use(**ending.pop("used")).since(begin) if begin and ending else None
    timeout_s = ending.pop("timeout_s", config.EXIT_TIMEOUT_S)
    tracking.end(**(ending or {"exit_code": None, "run_status": "failed"}), total=total)
    answer = recorder.wait_finished(timeout_s)
    os.write(1, json.dumps({"answer": answer, "waiting": recorder.waiting_text()}).encode())
    recorder.close()
    return 0


def _track_until_told(tracking: Tracking) -> dict[str, Any]:
    """The caller's last word (exit_code, run_status, used, timeout_s), empty if the caller went without one."""
    while True:
        if wait_readable([0], tracking.wait_s()):
            return _next_word()
        if not tracking.tick_if_due():
            return {}


def _next_word() -> dict[str, Any]:
    """Of the caller, which tells one at the beginning and one at the end of the block; empty if it is gone."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        line = orders.readline()  # not a byte more: both may have come
    return json.loads(line) if line else {}


def child_order(spool_path: Path, pid: int, plan: Plan) -> dict[str, Any]:
    """The order of `main`."""
    return {
        "spool_path": str(spool_path),
        "pid": pid,
        "interval_s": plan.interval_s,
        "delivery": asdict(plan.delivery),
    }
