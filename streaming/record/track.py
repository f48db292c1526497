"""`streaming.track`: record a piece of Python as a run, from a process of its own.

with streaming.track(job_name="train"):
    ...

@streaming.track(job_name="train")
def train(): ...
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from spool import Spool, SpoolError, directory
from streaming import config
from streaming.collect import metadata as run_metadata
from streaming.collect.frameworks import placement_here
from streaming.collect.sampler import used_by_us
from streaming.errors import BadArgument, LaunchFailed
from streaming.processes import launch
from streaming.processes.child import Child
from streaming.record.recorder import Delivery
from streaming.record.tracker import Plan, child_order

SHORTEST_INTERVAL_S = 0.01
Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger(__name__)


class track(ContextDecorator):
    """Record the block (or each call of the decorated function) as a run of its own.

    Args:
        token: Bearer token; default from the environment. Without one, rows are kept in the spool only.
        interval: Seconds between samples.
        upload_interval, spool_dir, stop_timeout, api_url, s3_endpoint_url: As in `StreamingManager`.
        host_info, cloud_info: As in `StreamingManager`; None: discovered in the background.
        metadata: Any of the run's metadata, by name, e.g. `job_name="train"`, `tags={"fold": 3}`.

    An exception that leaves the block means `failed`; it is passed on. Tracking itself never raises into the block: if
    it cannot start, one warning says why.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        interval: float = 1.0,
        upload_interval: float = config.UPLOAD_INTERVAL_S,
        spool_dir: str | os.PathLike[str] | None = None,
        stop_timeout: float = config.STOP_TIMEOUT_S,
        api_url: str | None = None,
        s3_endpoint_url: str | None = None,
        host_info: dict[str, Any] | None = None,
        cloud_info: dict[str, Any] | None = None,
        **metadata: Any,
    ) -> None:
        target = config.target(token or None, api_url, s3_endpoint_url)
        self._plan = Plan(
            spool_dir=Path(spool_dir).expanduser().absolute() if spool_dir else directory.default_directory(),
            delivery=Delivery(
                token=target.token,
                api_url=target.api_url,
                s3_endpoint_url=target.s3_endpoint_url,
                upload_interval_s=config.wait_s(upload_interval, "upload_interval", least=1.0),
                linger_s=config.linger_s(),
            ),
            interval_s=config.wait_s(interval, "interval", least=SHORTEST_INTERVAL_S),
            metadata=run_metadata.recorded(placement_here().filling(metadata), hidden=target.token),
            host_info=run_metadata.jsonable(host_info, "host_info"),
            cloud_info=run_metadata.jsonable(cloud_info, "cloud_info"),
        )
        self._stop_timeout_s = config.wait_s(stop_timeout, "stop_timeout")
        self._children: dict[int, list[Child | None]] = {}  # of each thread, one for each block that it is in
        self._pid = 0

    def _recreate_cm(self) -> track:
        """Each call of a decorated function is a run of its own."""
        copy: track = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _children={})
        return copy

    def __call__(self, function: Function) -> Function:
        """Decorate. Raises BadArgument for a function whose call only makes a coroutine or a generator."""
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(function) for is_kind in kinds):
            raise BadArgument(
                f"{function.__name__} does not run when it is called", hint="use `with streaming.track(...)` inside it"
            )
        return super().__call__(function)

    def __enter__(self) -> track:
        self._pid = os.getpid()
        child: Child | None = None
        try:
            spool = Spool.create(self._plan.spool_dir, self._plan.new_run(self._pid))
            spool.close()
            order = child_order(spool.path, self._pid, self._plan)
            child = launch.start("tracker", order, log_path=spool.path.with_suffix(directory.LOG_SUFFIX))
        except (SpoolError, LaunchFailed) as error:
            log.warning("track.not_started: this run is not recorded (%s)", error)
        if child is not None:
            child.tell(json.dumps(asdict(used_by_us())).encode())
        self._children.setdefault(threading.get_ident(), []).append(child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._children.get(threading.get_ident())
        child = entered.pop() if entered else None
        if child is None or self._pid != os.getpid():
            return
        exit_code = _exit_code(error)
        ending = {
            "exit_code": exit_code,
            "run_status": "finished" if exit_code == 0 else "failed",
            "used": asdict(used_by_us()),
            "timeout_s": self._stop_timeout_s,
        }
        child.tell(json.dumps(ending).encode())
        if child.wait(self._stop_timeout_s + config.EXIT_TIMEOUT_S):
            _tell_waiting(child.answer(), has_token=self._plan.delivery.token is not None)
        child.close()


def _exit_code(error: BaseException | None) -> int:
    """The exit code that the program would have if it ended by this exception."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return code if abs(code) < 1 << 31 else 255
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _tell_waiting(answer: bytes, *, has_token: bool) -> None:
    """One line if the run is not delivered: a notice without a token, a warning with one."""
    try:
        told = json.loads(answer)
    except ValueError:
        log.warning("track.lost: the tracker process ended early; its rows are delivered by: tracker-stream drain")
        return
    if told["answer"] is None:
        log.log(logging.WARNING if has_token else logging.INFO, "run.waiting: %s", told["waiting"])
