"""StreamingManager: stands in for `resource_tracker.streaming.StreamingManager`, with a spool and a child process.

Source of the signature and its meaning: the public reference of resource-tracker 0.5.0, module `streaming`.
"""

from __future__ import annotations

import atexit
import logging
import operator
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from spool import Spool, SpoolError, directory
from spool.errors import RunEnded
from spool.model import BATCH_MAX_BYTES
from streaming import config
from streaming.collect import metadata as run_metadata
from streaming.collect.csv_lines import LineSplitter
from streaming.collect.csv_tail import CsvFeeder, UpdateSchedule
from streaming.collect.frameworks import placement_here
from streaming.errors import BadArgument
from streaming.processes import launch
from streaming.record.plan import Delivery, Plan
from streaming.record.recorder import Recorder

FEEDER_END_S = 1.0  # how long `stop` waits for a feeder that has nothing left to do

log = logging.getLogger(__name__)


class RunStatus(Enum):
    """How a run ended."""

    finished = "finished"
    failed = "failed"


class DataSource(Enum):
    """How a run's rows reach the service."""

    s3 = "s3"
    inline = "inline"


class StreamingManager:
    """Streams the rows of one run to the service in the background, and loses none.

    Args:
        token: Bearer token of the Sentinel API; required.
        csv_path: The CSV file that grows during the run, header line first; None to use `append`.
        upload_interval: Seconds between upload cycles; below 1 counts as 1.
        metadata, host_info, cloud_info: Sent when the run is registered. None for host and cloud: discovered.
        csv_update_fn: Called without arguments before each upload cycle, to bring the CSV up to date. In between only
            as often as that takes at most 5 % of the time.
        spool_dir: Where runs are kept; default `TRACKER_STREAM_DIR`, else the user's state directory.
        spool_interval: Seconds between two looks at the CSV file.
        stop_timeout: Seconds that `stop` waits for the delivery; 2 where nothing answers.
        start_method: "spawn", a fresh interpreter, or "fork" (no other threads may run then).
        s3_endpoint_url, api_url: Where S3 and the service are; default: the environment, else AWS and the public API.

    Raises BadArgument (a ValueError) for arguments that cannot be used.
    """

    def __init__(
        self,
        token: str,
        csv_path: str | None = None,
        upload_interval: int = config.UPLOAD_INTERVAL_S,
        metadata: dict[str, Any] | None = None,
        host_info: dict[str, Any] | None = None,
        cloud_info: dict[str, Any] | None = None,
        csv_update_fn: Callable[[], None] | None = None,
        *,
        spool_dir: str | os.PathLike[str] | None = None,
        spool_interval: float = config.SPOOL_INTERVAL_S,
        stop_timeout: float = config.STOP_TIMEOUT_S,
        start_method: str = "spawn",
        s3_endpoint_url: str | None = None,
        api_url: str | None = None,
    ) -> None:
        token = config.require_token(token)
        target = config.target(token, api_url, s3_endpoint_url)
        self._plan = Plan(
            spool_dir=directory.chosen(spool_dir),
            delivery=Delivery.to(
                target,
                upload_interval_s=config.wait_s(upload_interval, "upload_interval", least=1.0),
                start_method=start_method,
            ),
            metadata=run_metadata.recorded(placement_here().filling(metadata or {}), hidden=token),
            host_info=run_metadata.jsonable(host_info, "host_info"),
            cloud_info=run_metadata.jsonable(cloud_info, "cloud_info"),
            csv_path=None if csv_path is None else str(_require_path(csv_path)),
        )
        self._csv_path = None if self._plan.csv_path is None else Path(self._plan.csv_path)
        self._updates = UpdateSchedule(csv_update_fn, upload_interval_s=self._plan.delivery.upload_interval_s)
        self._spool_interval_s = config.wait_s(spool_interval, "spool_interval", least=0.05)
        self._stop_timeout_s = config.wait_s(stop_timeout, "stop_timeout")
        self._recorder: Recorder | None = None
        self._feeder: CsvFeeder | None = None
        self._lines = LineSplitter()
        self._start_lock = threading.RLock()
        self._append_lock = threading.RLock()
        self._is_appending = False
        self._stop_lock = threading.RLock()
        self._is_stopping = False
        self._feeding = threading.Lock()
        self._feed_problem = ""
        self._defect = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._answer: dict[str, Any] | None = None
        self._ending: _Ending | None = None
        self._has_ended = False

    def start(self) -> None:
        """Create the run's spool and start the uploader. Never touches the network; a second call does nothing.

        Raises BadArgument, or DirectoryUnusable if the spool directory cannot be used.
        """
        with self._start_lock:  # of two threads that start it, one does
            if self._recorder is None:
                self._recorder = self._new_run()
                self._thread = threading.Thread(
                    target=self._feed_until_stopped, name="tracker-stream-feeder", daemon=True
                )
                self._thread.start()
                atexit.register(self._stop_at_exit)
            elif self._has_ended:
                log.warning("run.over: start() after stop() does nothing; a new StreamingManager records a new run")

    def _new_run(self) -> Recorder:
        launch.require_start_method(self._plan.delivery.start_method)
        return Recorder.start(self._plan.spool_dir, self._plan.new_run(os.getpid()), self._plan.delivery)

    def append(self, csv: bytes) -> None:
        """Append whole CSV lines, the header line first (and again, or another one, whenever it changes).

        Durable when this returns. Raises BadArgument before `start`, with a `csv_path`, or for an unfinished last line,
        and SpoolError if the spool cannot take the lines now: then none of them is in it.
        """
        recorder = self._require_appendable(csv)
        with self._append_lock:
            if self._is_appending:
                raise BadArgument(
                    "append was called by a signal handler that interrupted append",
                    hint="set a flag in the handler, and append where the program looks at it",
                )
            header = self._lines.header
            try:
                self._is_appending = True
                batches, _ = self._lines.split(csv)
                if batches:
                    recorder.append(batches)
            except BaseException:
                self._lines.header = header
                raise
            finally:
                self._is_appending = False

    def stop(self, exit_code: int = 0, run_status: RunStatus | str = RunStatus.finished) -> dict[str, Any]:
        """Feed the last rows, record the run's end, let the uploader deliver, return the service's answer to finish.

        Returns {} with one warning if that takes longer than `stop_timeout`: the rows are safe, and delivered later.
        Before `start` it does nothing and returns {}; a second call returns the first one's answer. An end that the
        spool could not record (a full disk; a signal handler that interrupts an append) is recorded by the next call,
        or when the program ends.
        """
        return self._stop(_exit_code(exit_code), _status_text(run_status), self._stop_timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether the uploader process runs."""
        return bool(self._ask(lambda recorder: recorder.is_uploader_alive))

    @property
    def run_id(self) -> str | None:
        """The service's id of the run; None until it is registered."""
        registration = self._ask_spool(lambda spool: spool.run().registration)
        return registration.run_id if registration else None

    @property
    def id(self) -> str | None:
        """The same as `run_id`, by the name that it has on what `streaming.track` gives."""
        return self.run_id

    @property
    def url(self) -> str | None:
        """The run's page; None until the run is registered, and for a service that names none."""
        run = self._ask_spool(Spool.run)
        return run.page_url if run else None

    @property
    def uploaded_uris(self) -> list[str]:
        """`s3://` URIs of all objects uploaded so far, in order."""
        return self._ask_spool(Spool.sent_uris) or []

    def wait_until_registered(self, timeout_s: float) -> str | None:
        """The run's id as soon as it is registered, None after `timeout_s` seconds."""
        give_up_at = time.monotonic() + timeout_s
        while (run_id := self.run_id) is None and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return run_id

    def _require_appendable(self, csv: bytes) -> Recorder:
        """The recorder that takes these lines. Raises BadArgument."""
        if self._recorder is None or not self._recorder.is_ours:
            raise BadArgument("append was called before start, or in a forked copy", hint="call start() first")
        if self._csv_path is not None:  # the newest batch tells how far the file was taken over
            raise BadArgument(
                f"the rows of this run come from {self._csv_path}", hint="write them there, or use no csv_path"
            )
        if not isinstance(csv, bytes):
            raise BadArgument(f"append takes bytes, not {type(csv).__name__}", hint="give text.encode()")
        if len(csv) > BATCH_MAX_BYTES:
            raise BadArgument(f"{len(csv):,} bytes are too many for one append", hint="append them in pieces")
        if not csv.endswith(b"\n"):
            raise BadArgument("append takes whole lines", hint="end the last line with a newline")
        return self._recorder

    def _ask(self, question: Callable[[Recorder], Any]) -> Any:
        """An answer of the recorder; None before `start` and in a forked copy. Raises SpoolError."""
        recorder = self._recorder
        return question(recorder) if recorder is not None and recorder.is_ours else None

    def _ask_spool(self, question: Callable[[Spool], Any]) -> Any:
        """An answer from the spool; None if there is none, also because it cannot be read: that is told by the feeder."""
        with suppress(SpoolError):
            return self._ask(lambda recorder: recorder.ask(question))
        return None

    def _feed_until_stopped(self) -> None:
        while not self._stopping.wait(self._spool_interval_s):
            try:
                with self._feeding:
                    self._feed()
                    self._tend()
            except Exception as defect:  # noqa: BLE001 - nobody foresaw it; a feeder that ends would record nothing more
                self._tell_defect(defect)

    def _feed(self, *, is_final: bool = False) -> bool:
        """One look at the CSV. False if the spool cannot take rows now: that is told once; the file keeps them."""
        self._updates.call_if_due(is_final=is_final)
        recorder = self._recorder
        if self._csv_path is None or recorder is None or not recorder.is_ours:
            return True
        try:
            while not self._take(recorder, self._csv_path, is_final=is_final):
                pass
            self._feed_problem = ""
        except SpoolError as error:
            if self._feed_problem != error.message:
                self._feed_problem = error.message
                log.warning("spool.unavailable: %s; rows stay in %s and are taken over later", error, self._csv_path)
            return False
        return True

    def _take(self, recorder: Recorder, csv_path: Path, *, is_final: bool) -> bool:
        """Take over what the CSV holds. False if others ended the run meanwhile, and it is to be tried again.

        They may have taken rows that we have not: only what a feeder leaves that has asked the spool is for the next run.
        """
        has_asked = self._feeder is None
        feeder = self._feeder = self._feeder or CsvFeeder(recorder.spool, csv_path)
        try:
            recorder.surviving_damage(lambda: feeder.take(is_final=is_final))
        except RunEnded as ended:
            if has_asked or recorder.spool.was_removed():
                recorder.go_on(ended)
            self._feeder = None
            return False
        return True

    def _tell_defect(self, defect: Exception) -> None:
        """Once, without the exception's text: nobody knows what it quotes."""
        if self._defect != (told := type(defect).__name__):
            self._defect = told
            frames = "".join(traceback.format_tb(defect.__traceback__))
            log.warning("feeder.defect: %s; it is tried again (please report this)\n%s", told, frames)

    def _tend(self) -> None:
        self._ask(Recorder.tend)

    def _stop(self, exit_code: int | None, run_status: str, timeout_s: float) -> dict[str, Any]:
        recorder = self._recorder
        if recorder is None or not recorder.is_ours:
            return {}
        give_up_at = time.monotonic() + timeout_s  # the clock may jump; the wait must not
        if not self._stop_lock.acquire(timeout=timeout_s):  # another thread is at it, and takes longer
            return {}
        try:
            if self._answer is None and not self._is_stopping:  # else a signal handler interrupted stop
                self._ending = self._ending or _Ending(exit_code, run_status, time.time())
                self._answer = self._end_and_wait(recorder, self._ending, give_up_at)
            return self._answer or {}
        finally:
            self._stop_lock.release()

    def _end_and_wait(self, recorder: Recorder, ending: _Ending, give_up_at: float) -> dict[str, Any] | None:
        """The service's answer, {} if it does not come in time, None if not even the end could be recorded.

        Interrupted anywhere (Ctrl-C), it is done again from the top by the next `stop`, or when the program ends.
        """
        try:
            self._is_stopping = True
            if not self._has_ended:
                self._has_ended = self._end(recorder, ending, give_up_at)
            if not self._has_ended:
                return None
            atexit.unregister(self._stop_at_exit)
            answer = recorder.wait_finished(give_up_at - time.monotonic())
        finally:
            self._is_stopping = False
        if answer is None:  # an empty one is an answer, too
            log.warning("run.waiting: not delivered in time: %s", recorder.waiting_text())
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(FEEDER_END_S)
        recorder.close()
        return answer or {}

    def _end(self, recorder: Recorder, ending: _Ending, give_up_at: float) -> bool:
        """Feed the last rows, and record the end. False, and told, if the spool cannot take them now."""
        if not self._feed_last(give_up_at):
            log.warning(
                "run.not_ended: rows of %s are not in the spool; its uploader or a later start takes them",
                self._csv_path,
            )
            return False
        try:
            recorder.end(exit_code=ending.exit_code, run_status=ending.run_status, ended_at=ending.ended_at)
        except SpoolError as error:
            log.warning("spool.unavailable: the end of the run could not be recorded (%s)", error)
            return False
        return True

    def _feed_last(self, give_up_at: float) -> bool:
        """Take over the last rows, unless the feeder hangs in the caller's `csv_update_fn`.

        False if the spool cannot take them before the time is over: then the run must not be ended without them.
        """
        self._stopping.set()
        if not self._feeding.acquire(timeout=max(0.0, give_up_at - time.monotonic())):
            log.warning(
                "csv_update.hangs: csv_update_fn did not return; rows it has not written yet are not in the run"
            )
            return True
        try:
            while not (is_taken := self._feed(is_final=True)) and time.monotonic() < give_up_at:
                time.sleep(min(self._spool_interval_s, 1.0))
            return is_taken
        finally:
            self._feeding.release()

    def _stop_at_exit(self) -> None:
        """The program ends without `stop`: by return, sys.exit (exit code unknown), or an exception (failed)."""
        has_failed = getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1")
        self._stop(1 if has_failed else None, "failed" if has_failed else "finished", config.EXIT_TIMEOUT_S)


def _require_path(csv_path: str | os.PathLike[str]) -> Path:
    try:
        path = Path(csv_path).absolute()
    except (TypeError, OSError) as error:  # OSError: a relative path, and the working directory is gone
        raise BadArgument(f"csv_path={csv_path!r} cannot be used ({error})", hint="give a path") from error
    if "\0" in str(path):
        raise BadArgument(f"csv_path={csv_path!r} cannot be used (it holds a zero byte)", hint="give a path")
    return path


@dataclass(frozen=True)
class _Ending:
    """How the run ended, as the first `stop` was told."""

    exit_code: int | None
    run_status: str
    ended_at: float


def _exit_code(given: object) -> int | None:
    """An integer of 32 bits, also another library's; None (unknown) for what is none."""
    if given is None:
        return None
    with suppress(TypeError):
        number = operator.index(given)  # type: ignore[arg-type]
        if -(1 << 31) <= number < 1 << 32:
            return number
    log.warning("exit_code.unknown: %.40r is not an exit code, and is left out", given)
    return None


def _status_text(run_status: object) -> str:
    """ "finished" or "failed", from any enum with such a value (resource-tracker passes its own) or the text itself."""
    text = getattr(run_status, "value", run_status)
    if text in ("finished", "failed"):
        return str(text)
    log.warning("run_status.unknown: %r is sent as 'failed'", text)
    return "failed"
