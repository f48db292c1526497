"""One run being recorded by this process: its spool, and the engine that is kept alive to deliver it.

What the StreamingManager and the tracker have in common. Without a token nothing is delivered: rows stay in the spool.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from spool import Batch, NewRun, Run, RunState, Spool, SpoolError, directory, queries
from spool.errors import RunEnded, SpoolDamaged, SpoolUnavailable
from streaming import config
from streaming.collect import host, metadata
from streaming.errors import LaunchFailed
from streaming.processes import engine_link
from streaming.processes.engine_link import EngineLink
from streaming.record.plan import Delivery, tracker_of

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0  # an engine that lived longer than this died of something new
SILENT_S = 60.0  # an engine that has said nothing for so long since it was found will never come up
UNREACHABLE_WAIT_S = 1.5  # after the run's end, once it is known that nobody answers
UNHEARD_WAIT_S = 2.0  # after the run's end, or the engine's start, unless it is known that the service answers
TELL_S = 1.0  # a wait that lasts longer is told
LOOK_S = 0.5  # how often a wait for the delivery looks whether it is to end early
CONTINUES = "continues"  # the tag of a run that goes on where another one was ended while its tracker lived
POLL_S = 0.05  # how often an engine is looked for, while the delivery is waited for and there is none

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Recorder:
    """Append, end, wait for delivery. Belongs to the process that made it: a forked copy does nothing."""

    def __init__(self, spool: Spool, delivery: Delivery) -> None:
        self.spool = spool
        self._delivery = delivery
        self._link: EngineLink | None = None
        self._linked_at = 0.0
        self._over: engine_link.Event | None = None  # what the engine told at the end of its work for this run
        self._is_reachable: bool | None = None  # as told since the run's end
        self._engine_up_at = 0.0  # when its first word was heard
        self._is_stopped = False  # a person ended the engine: another may come, but not because of us
        self._pid = os.getpid()
        self._lock = threading.RLock()  # held while another run or another link takes the place of the former one
        self._known_run: Run | None = None
        with suppress(SpoolError):  # told by whoever needs it
            self._known_run = spool.run()
        self._former: list[Spool] = []  # runs that others ended; other threads may still be asking them
        self._has_ended = False
        self._ended_at = 0.0
        self._is_closed = False
        self._beat_at = time.monotonic() + config.HEARTBEAT_S / 2
        self._restart_pause_s = RESTART_FIRST_S
        self._restart_at = time.monotonic() + RESTART_FIRST_S

    @classmethod
    def start(cls, spool_directory: Path, new: NewRun, delivery: Delivery) -> Recorder:
        """Create the spool and hand it to the engine, which is started if there is none. Never waits for the network.

        Raises SpoolError where the directory cannot be used. An engine that cannot be started is only warned of: the
        rows are safe, and it is tried again.
        """
        spool = Spool.create(spool_directory, new)
        if delivery.token is not None and delivery.start_method == "fork":
            spool.close()  # no SQLite connection crosses the fork
            link = _find_or_start(spool.path, delivery, delivery.start_method)
            return cls._deliver_by(link, Spool(spool.path), delivery)
        return cls.adopt(spool, delivery)

    @classmethod
    def adopt(cls, spool: Spool, delivery: Delivery) -> Recorder:
        """Record into a spool that another process created for us."""
        if delivery.token is None:
            host.describe_in_background(spool)
            return cls(spool, delivery)
        return cls._deliver_by(_find_or_start(spool.path, delivery, "spawn"), spool, delivery)

    @classmethod
    def _deliver_by(cls, link: EngineLink | None, spool: Spool, delivery: Delivery) -> Recorder:
        recorder = cls(spool, delivery)
        recorder._use(link)
        return recorder

    @property
    def is_ours(self) -> bool:
        """False in a forked copy of the process that started the run."""
        return self._pid == os.getpid()

    @property
    def is_uploader_alive(self) -> bool:
        """Also after `close`: the engine goes on by itself."""
        if self._is_closed:
            link = None if self._over is not None else engine_link.find(self.spool.path.parent)
            if link is not None:
                link.close()
            return link is not None
        self._hear(0.0)
        return self.is_ours and self._link is not None and self._link.is_open

    @property
    def uploader_pid(self) -> int | None:
        """The engine's, once it has come up."""
        self._hear(0.0)
        return None if self._link is None else self._link.engine_pid

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
            self._hand_over()

    def surviving_damage(self, action: Callable[[], Result]) -> Result:
        """Do it; if the spool is found damaged, go on with what is readable of it, say so, and do it again.

        Raises SpoolError, also if there is no room for recovery.
        """
        try:
            return action()
        except SpoolDamaged:
            from spool.recovery.recover import recover  # here only: few runs ever need it

            recovered = recover(self.spool)
            if recovered is not None:  # else the engine was faster
                log.error("spool.recovered: %s", recovered)
            return action()

    def tend(self) -> None:
        """Show others that we live, and find or start another engine if ours died, with growing pauses. To be called about
        once a second. Never raises."""
        self._beat()
        if self._delivery.token is None:
            return
        self._hear(0.0)
        if self._is_served() or time.monotonic() < self._restart_at:
            return
        with self._lock, suppress(SpoolError):  # told where rows are appended
            run = self.spool.run()
            if run.state is not RunState.FINISHED and not run.parked:
                self._hand_over()

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

    def _is_served(self) -> bool:
        """Whether an engine works for this run, as far as it has told us."""
        if self._link is None or not self._link.is_open or self._over is not None:
            return False
        if self._link.engine_pid is None and time.monotonic() - self._linked_at > SILENT_S:
            self._link.close()
        return self._link.is_open

    def _hand_over(self) -> None:
        """Give this run to the engine at hand, or find or start another one."""
        now = time.monotonic()
        if self._link is not None and not self._link.is_open and now - self._linked_at > RESTART_MAX_S:
            self._restart_pause_s = RESTART_FIRST_S
        self._restart_at = now + self._restart_pause_s
        self._restart_pause_s = min(RESTART_MAX_S, self._restart_pause_s * 2)
        if self._link is None or not self._link.is_open:
            if self._link is not None and not self._is_stopped:
                log.warning("uploader.restarted: the uploader of run %s was gone", self.spool.path.stem)
            in_directory = self.spool.path.parent
            self._use(
                engine_link.find(in_directory)
                if self._is_stopped and not self._has_ended
                else _find_or_start(self.spool.path, self._delivery, "spawn")
            )
        else:
            self._use(self._link)

    def _use(self, link: EngineLink | None) -> None:
        if link is not self._link:
            self._linked_at = time.monotonic()
        self._link, self._over = link or self._link, None
        if link is not None:
            link.tell(self._delivery.order(self.spool.path, is_awaited=self._has_ended))

    def _hear(self, timeout_s: float) -> None:
        """Take note of what the engine tells within so many seconds."""
        link = self._link
        for event in link.events(timeout_s) if link is not None and self.is_ours else []:
            if event["event"] == "hello":
                self._engine_up_at = time.monotonic()
            if event["event"] == "stopping":
                self._is_stopped = True
            if event.get("path") != str(self.spool.path):
                continue
            if event["event"] == "done":
                self._over = event
            elif event["event"] == "problem" and self._has_ended:
                self._is_reachable = not event["is_unreachable"]
            elif event["event"] == "answering":
                self._is_reachable = True

    def end(self, *, exit_code: int | None, run_status: str, ended_at: float) -> None:
        """Record the end of the run and tell the engine. Raises SpoolError.

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
        self._ended_at = time.monotonic()
        self._restart_pause_s = RESTART_FIRST_S  # somebody may wait: the engines that died before this count no more
        if self._delivery.token is not None:
            self._hear(0.0)
            self._hand_over()

    def wait_finished(
        self,
        timeout_s: float,
        *,
        is_over: Callable[[], bool] = lambda: False,
        on_wait: Callable[[], None] = lambda: None,
    ) -> dict[str, Any] | None:
        """The service's answer to finish, None if it did not come within `timeout_s` seconds, or before `is_over`.

        An engine that is killed meanwhile is replaced. Not waited for is what cannot come: without an engine, or once it
        has told that nobody answers. `on_wait` is called once, if it takes a while.
        """
        try:
            if self._delivery.token is not None:
                self._wait_over(time.monotonic() + timeout_s, is_over, on_wait)
            return self.spool.run().finish_answer
        except SpoolError as error:
            log.warning("spool.unavailable: it is not known whether the run was delivered (%s)", error)
            return None

    def _wait_over(self, give_up_at: float, is_over: Callable[[], bool], on_wait: Callable[[], None]) -> None:
        began_at, is_told = time.monotonic(), False
        while self._over is None and self._link is not None and not is_over():
            left_s = min(give_up_at, self._give_up_unheard_at()) - time.monotonic()
            if left_s <= 0:
                return
            if not is_told and time.monotonic() - began_at > TELL_S:
                is_told = True
                on_wait()
            if self._link.is_open:
                self._hear(min(left_s, LOOK_S))
            else:
                time.sleep(min(POLL_S, left_s))
                self.tend()

    def _give_up_unheard_at(self) -> float:
        """Until when the engine is given time for a first word of the service. What it needs to come up does not count:
        that is this machine's time, not the network's."""
        if self._is_reachable is None:
            has_come_up = self._link is not None and self._link.engine_pid is not None
            return max(self._ended_at, self._engine_up_at) + UNHEARD_WAIT_S if has_come_up else float("inf")
        return float("inf") if self._is_reachable else self._ended_at + UNREACHABLE_WAIT_S

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
        """Release the spool and the link; the engine goes on by itself."""
        if not self.is_ours:
            return
        self._is_closed = True
        if self._link is not None:
            self._link.close()
        for spool in (*self._former, self.spool):
            spool.close()


def _name_of_first(run: Run, path: Path) -> str:
    """The name of the run that this one continues, or its own."""
    tags = run.metadata.get("tags")
    return str(tags.get(CONTINUES, "") if isinstance(tags, dict) else "") or directory.short_name(path)


def _find_or_start(spool_path: Path, delivery: Delivery, method: str) -> EngineLink | None:
    hidden = [delivery.token] if delivery.token else []
    try:
        return engine_link.find_or_start(spool_path.parent, hidden=hidden, method=method)
    except LaunchFailed as error:
        log.warning("uploader.not_started: %s", error)
        return None
