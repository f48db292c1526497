"""One run being recorded by this process: its spool, and the uploader that is kept alive beside it.

What the StreamingManager and the tracker have in common. Without a token there is no uploader: rows stay in the spool.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from spool import Batch, NewRun, Run, RunState, Spool, SpoolError, Tracker, directory, ownership, queries, system
from spool.errors import RunEnded, SpoolDamaged, SpoolUnavailable
from streaming import config
from streaming.collect import host, metadata, scheduler
from streaming.errors import LaunchFailed, Unauthorized
from streaming.processes import launch
from streaming.processes.child import Child

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
LOOK_S = 0.5  # how often a wait for the delivery looks whether it is to end early
CONTINUES = "continues"  # the tag of a run that goes on where another one was ended while its tracker lived
POLL_S = 0.05  # how often it is asked whether another process, which delivers our run, is done

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Delivery:
    """How the uploader is to deliver this run. The token is held in memory only."""

    token: str | None = field(repr=False)
    api_url: str
    s3_endpoint_url: str | None
    upload_interval_s: float
    linger_s: float
    start_method: str = "spawn"

    def order(self, spool_path: Path) -> dict[str, Any]:
        """The uploader's order, sent through a pipe."""
        return {
            "spool_path": str(spool_path),
            "token": self.token,
            "api_url": self.api_url,
            "s3_endpoint_url": self.s3_endpoint_url,
            "upload_interval_s": self.upload_interval_s,
            "linger_s": self.linger_s,
            "log_level": logging.getLogger("streaming").getEffectiveLevel(),
        }


class Recorder:
    """Append, end, wait for delivery. Belongs to the process that made it: a forked copy does nothing."""

    def __init__(self, spool: Spool, delivery: Delivery, uploader: Child | None) -> None:
        self.spool = spool
        self._delivery = delivery
        self._uploader = uploader
        self._pid = os.getpid()
        self._lock = threading.RLock()  # held while another run or another uploader takes the place of the former one
        self._known_run: Run | None = None
        with suppress(SpoolError):  # told by whoever needs it
            self._known_run = spool.run()
        self._former: list[Spool] = []  # runs that others ended; other threads may still be asking them
        self._has_ended = False
        self._is_closed = False
        self._beat_at = time.monotonic() + config.HEARTBEAT_S / 2
        self._restart_pause_s = RESTART_FIRST_S
        self._restart_at = time.monotonic() + RESTART_FIRST_S

    @classmethod
    def start(cls, spool_directory: Path, new: NewRun, delivery: Delivery) -> Recorder:
        """Create the spool and start the uploader. Never waits for the network.

        Raises SpoolError where the directory cannot be used. An uploader that cannot be started is only warned of:
        the rows are safe, and it is tried again.
        """
        spool = Spool.create(spool_directory, new)
        if delivery.token is None:
            _describe_in_background(spool)
            return cls(spool, delivery, None)
        if delivery.start_method == "fork":
            spool.close()  # no SQLite connection crosses the fork
        uploader = _start_uploader(spool.path, delivery, delivery.start_method)
        if delivery.start_method == "fork":
            spool = Spool(spool.path)
        return cls(spool, delivery, uploader)

    @classmethod
    def adopt(cls, spool: Spool, delivery: Delivery) -> Recorder:
        """Record into a spool that another process created for us."""
        if delivery.token is None:
            _describe_in_background(spool)
            return cls(spool, delivery, None)
        return cls(spool, delivery, _start_uploader(spool.path, delivery, "spawn"))

    @property
    def is_ours(self) -> bool:
        """False in a forked copy of the process that started the run."""
        return self._pid == os.getpid()

    @property
    def is_uploader_alive(self) -> bool:
        """Also after `close`: the uploader goes on by itself."""
        if self._is_closed:
            return ownership.is_owned(self.spool.path)
        return self.is_ours and self._uploader is not None and self._uploader.is_alive()

    def ask(self, question: Callable[[Spool], Result]) -> Result:
        """An answer from the spool, which is opened for it after `close`. Raises SpoolError."""
        if not self._is_closed:
            return question(self.spool)
        with closing(Spool(self.spool.path)) as spool:
            return question(spool)

    def append(self, batches: list[Batch]) -> None:
        """Durable when this returns: in this run, or if others ended it, in the next. Raises SpoolError; RunEnded after
        `end` and `close`."""
        if self._is_closed:
            raise RunEnded(self.spool.path)
        try:
            self.surviving_damage(lambda: self.spool.append(batches))
        except RunEnded as ended:
            self.go_on(ended)

    def go_on(self, ended: RunEnded) -> None:
        """Somebody ended the run while its tracker lives (a wrong guess, a person's word): record on in a new one.

        It begins with the rows that the ended one did not take. `spool` is the new run's from then on. Raises `ended` if
        it was us who ended the run, and SpoolError if there can be no new run now: then nothing has changed.
        """
        with self._lock:
            if self._has_ended:
                raise ended
            self._begin_next_run(first=ended.left, csv_offset=ended.csv_offset)

    def _begin_next_run(self, *, first: Sequence[Batch] = (), csv_offset: int | None = None) -> None:
        former = self.spool
        run = self._known_run if self._known_run and former.was_removed() else former.run()
        name = _name_of_first(run, former.path)
        new = NewRun(
            tracker=tracker_of(self._pid, heartbeat_s=run.tracker.heartbeat_s),
            started_at=time.time(),
            token=self._delivery.token,
            metadata=metadata.tagged(run.metadata, CONTINUES, name),
            host_info=run.host_info,
            cloud_info=run.cloud_info,
            csv_path=run.csv_path if first else None,  # at its end nothing is left there to be taken over
            api_url=run.api_url,
            s3_endpoint_url=run.s3_endpoint_url,
            upload_interval_s=run.upload_interval_s,
        )
        self.spool = Spool.create(former.path.parent, new, first=first, csv_offset=csv_offset, step=former.step)
        self._former.append(former)
        log.warning(
            "run.continued: run %s was %s by another process, yet its tracker lives: it goes on as run %s (tag %s=%s)",
            directory.short_name(former.path),
            "removed" if former.was_removed() else "ended",
            directory.short_name(self.spool.path),
            CONTINUES,
            name,
        )
        if self._delivery.token is not None:
            self._replace_uploader()

    def surviving_damage(self, action: Callable[[], Result]) -> Result:
        """Do it; if the spool is found damaged, go on with what is readable of it, say so, and do it again.

        Raises SpoolError, also if there is no room for recovery.
        """
        try:
            return action()
        except SpoolDamaged:
            from spool.recovery.recover import recover  # here only: few runs ever need it

            recovered = recover(self.spool)
            if recovered is not None:  # else the uploader was faster
                log.error("spool.recovered: %s", recovered)
            return action()

    def tend(self) -> None:
        """Show others that we live, and start another uploader if it died, with growing pauses. To be called about once a
        second. Never raises."""
        self._beat()
        if self._delivery.token is None or self.is_uploader_alive or time.monotonic() < self._restart_at:
            return
        with self._lock, suppress(SpoolError):  # told where rows are appended
            run = self.spool.run()
            if run.state is not RunState.FINISHED and not run.parked and not ownership.is_owned(self.spool.path):
                self._start_another()

    def _beat(self) -> None:
        """Between two signs of life, be they rows or heartbeats, pass at most HEARTBEAT_S."""
        if self._has_ended or time.monotonic() < self._beat_at:
            return
        self._beat_at = time.monotonic() + config.HEARTBEAT_S / 2
        with suppress(SpoolError):  # told where rows are appended
            silent_s = time.time() - (queries.last_append_at(self.spool.connection) or 0.0)
            if not 0 <= silent_s < config.HEARTBEAT_S / 2:  # or the clock was set back
                self.spool.beat()
            self._known_run = self.spool.run()

    def _start_another(self) -> None:
        log.warning("uploader.restarted: the uploader of run %s was gone", self.spool.path.stem)
        self._replace_uploader()
        self._restart_at = time.monotonic() + self._restart_pause_s
        self._restart_pause_s = min(RESTART_MAX_S, self._restart_pause_s * 2)

    def _replace_uploader(self) -> None:
        if self._uploader is not None:
            self._uploader.close()
        self._uploader = _start_uploader(self.spool.path, self._delivery, "spawn")

    def end(self, *, exit_code: int | None, run_status: str, ended_at: float) -> None:
        """Record the end of the run and tell the uploader. Raises SpoolError.

        If others ended it in another way, the true end is that of a run of its own, which has no rows.
        """

        def end() -> bool:
            try:
                return self.spool.end(exit_code=exit_code, run_status=run_status, ended_at=ended_at)
            except SpoolUnavailable:
                if self.spool.was_removed():
                    return False
                raise

        with self._lock:
            self._has_ended = True  # from now on, a run that takes no more rows is no surprise
            try:
                if not self.surviving_damage(end):
                    self._begin_next_run()
                    end()
            except BaseException:
                self._has_ended = False
                raise
        if self._uploader is not None and self._uploader.is_alive():
            self._uploader.tell(b"ended")
        elif self._delivery.token is not None:
            self._start_another()

    def wait_finished(self, timeout_s: float, *, is_over: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """The service's answer to finish, None if it did not come within `timeout_s` seconds, or before `is_over`.

        An uploader that is killed meanwhile is replaced. One that found another process delivering this run (an
        uploader of a neighbour that took it for left behind) has ended, and that process is waited for.
        """
        try:
            return self._wait_finished(timeout_s, is_over)
        except SpoolError as error:
            log.warning("spool.unavailable: nobody knows whether the run was delivered (%s)", error)
            return None

    def _wait_finished(self, timeout_s: float, is_over: Callable[[], bool]) -> dict[str, Any] | None:
        give_up_at = time.monotonic() + timeout_s
        while True:
            run = self.spool.run()
            left_s = give_up_at - time.monotonic()
            if run.state is RunState.FINISHED or left_s <= 0 or is_over() or not self._is_on_its_way(run):
                return run.finish_answer
            if self._uploader is not None and self._uploader.wait(min(left_s, LOOK_S)):
                time.sleep(min(POLL_S, left_s))
                self.tend()

    def _is_on_its_way(self, run: Run) -> bool:
        """Whether somebody delivers the ended run, or will: its uploader, another process, or the next uploader."""
        if self._uploader is None or run.parked:
            return False
        if self._uploader.is_alive() or ownership.is_owned(self.spool.path):
            return True
        if run.problem_cause == Unauthorized.cause:
            return False
        return time.time() - (run.ended_at or time.time()) < self._delivery.linger_s

    def waiting_text(self) -> str:
        """One sentence: how many rows wait where, and which command delivers them."""
        try:
            waiting = queries.backlog(self.spool.connection).row_count
        except SpoolError as error:
            return str(error)
        return (
            f"{waiting} row(s) of run {self.spool.path.stem} wait in {self.spool.path.parent}; "
            f"deliver them with: tracker-stream drain {self.spool.path.stem}"
        )

    def close(self) -> None:
        """Release the spool and the pipes; the uploader goes on by itself."""
        if not self.is_ours:
            return
        self._is_closed = True
        if self._uploader is not None:
            self._uploader.close()
        for spool in (*self._former, self.spool):
            spool.close()


def tracker_of(pid: int, *, heartbeat_s: float = config.HEARTBEAT_S) -> Tracker:
    """Who records, and how often others can expect to see a sign of life."""
    job = scheduler.slurm_job(os.environ)
    return replace(system.identify(pid), heartbeat_s=min(heartbeat_s, config.HEARTBEAT_S), slurm_job=job)


def _name_of_first(run: Run, path: Path) -> str:
    """The name of the run that this one continues, or its own."""
    tags = run.metadata.get("tags")
    return str(tags.get(CONTINUES, "") if isinstance(tags, dict) else "") or directory.short_name(path)


def _describe_in_background(spool: Spool) -> None:
    """Host and cloud are those of this machine now, wherever and whenever the run is delivered."""
    child = host.begin(spool)
    if child is not None:
        child.close()


def _start_uploader(spool_path: Path, delivery: Delivery, method: str) -> Child | None:
    try:
        return launch.start(
            "uploader",
            delivery.order(spool_path),
            log_path=spool_path.with_suffix(directory.LOG_SUFFIX),
            method=method,
        )
    except LaunchFailed as error:
        log.warning("uploader.not_started: %s", error)
        return None
