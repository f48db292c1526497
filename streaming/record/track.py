"""`streaming.track`: record a piece of Python as a run, from a process of its own.

with streaming.track(job_name="train") as run:
    ...
    print(run.url)

@streaming.track(job_name="train")
def train(): ...
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator, closing, suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from spool import Run, Spool, SpoolError, directory
from streaming import config
from streaming.collect import metadata as run_metadata
from streaming.collect.frameworks import placement_here
from streaming.collect.sampler import used_by_us
from streaming.errors import BadArgument, LaunchFailed
from streaming.processes import launch
from streaming.processes.child import Child
from streaming.record.plan import Delivery, Plan
from streaming.record.tracker import child_order

Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger(__name__)
_open_blocks = threading.local()  # `depth`: how many tracked blocks this thread is in


class track(ContextDecorator):
    """Record the block (or each call of the decorated function) as a run of its own.

    Args:
        token: Bearer token. Without one, rows are kept in the spool only.
        interval: Seconds between samples.
        upload_interval, spool_dir, api_url, s3_endpoint_url: As in `StreamingManager`.
        stop_timeout: Seconds that the end of the block waits for the delivery; within another block, nothing is waited for.
        host_info, cloud_info: As in `StreamingManager`; None: discovered in the background.
        metadata: Any of the run's metadata, by name, e.g. `job_name="train"`, `tags={"fold": 3}`.

    What is not given comes from the environment, by the names that the command has for it, and then from the scheduler.
    Raises BadArgument for an argument that cannot be used. A setting of the environment that cannot be used costs one
    warning. An exception that leaves the block means `failed`; it is passed on. Tracking itself never raises into the
    block: if it cannot start, one warning says why.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        interval: float | None = None,
        upload_interval: float | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        stop_timeout: float | None = None,
        api_url: str | None = None,
        s3_endpoint_url: str | None = None,
        host_info: dict[str, Any] | None = None,
        cloud_info: dict[str, Any] | None = None,
        **metadata: Any,
    ) -> None:
        run_metadata.require_sendable(metadata)
        found = config.environment((*config.METADATA, config.TAGS, *config.SAMPLING))
        for text in found.unusable.values():
            config.warn_once(text)
        settings = {**{setting.name: setting.default for setting in config.SAMPLING}, **found.values}
        target = config.target(token or None, api_url, s3_endpoint_url)
        self._mode = config.Mode.OFFLINE if config.MODE.name in found.unusable else config.Mode(settings["mode"])
        self._plan = Plan(
            spool_dir=directory.chosen(spool_dir),
            delivery=Delivery.to(
                target if self._mode is config.Mode.AUTO else replace(target, token=None),
                upload_interval_s=_positive(upload_interval, "upload_interval", settings, least=1.0),
            ),
            interval_s=_positive(interval, "interval", settings, least=config.INTERVAL.least),
            metadata=run_metadata.recorded(_filled(metadata, settings), hidden=target.token),
            host_info=run_metadata.jsonable(host_info, "host_info"),
            cloud_info=run_metadata.jsonable(cloud_info, "cloud_info"),
        )
        given_s = settings[config.EXIT_WAIT.name] if stop_timeout is None else stop_timeout
        self._stop_timeout_s = config.wait_s(given_s, "stop_timeout")
        self._children: dict[int, list[Child | None]] = {}  # of each thread, one for each block that it is in
        self._pid = 0
        self._latest: Path | None = None

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
        child = None if self._mode is config.Mode.DISABLED else self._start()
        self._children.setdefault(threading.get_ident(), []).append(child)
        _open_blocks.depth = getattr(_open_blocks, "depth", 0) + 1
        return self

    def _start(self) -> Child | None:
        try:
            here = placement_here().filling(self._plan.metadata)  # known now, not when a function was decorated
            spool = Spool.create(self._plan.spool_dir, replace(self._plan, metadata=here).new_run(self._pid))
            spool.close()
            self._latest = spool.path
            order = child_order(spool.path, self._pid, self._plan)
            child = launch.start("tracker", order, log_path=spool.path.with_suffix(directory.LOG_SUFFIX))
        except (SpoolError, LaunchFailed) as error:
            log.warning("track.not_started: this run is not recorded (%s)", error)
            return None
        child.tell(json.dumps(asdict(used_by_us())).encode())  # after the start, which is not the block's work
        return child

    @property
    def id(self) -> str | None:
        """The service's id of the run that was begun last; None until it is registered."""
        run = self._run()
        return run.registration.run_id if run and run.registration else None

    @property
    def url(self) -> str | None:
        """Its page; None until it is registered, and for a service that names none."""
        run = self._run()
        return run.page_url if run else None

    def _run(self) -> Run | None:
        """What its spool says now; None if there is none, or none that can be read."""
        with suppress(SpoolError):
            if self._latest is not None:
                with closing(Spool(self._latest)) as spool:
                    return spool.run()
        return None

    @property
    def recorded(self) -> Any:
        """The run that was begun last, to be asked for its rows (as `streaming.runs` gives it). Raises BadArgument."""
        if self._latest is None:
            raise BadArgument("nothing was recorded", hint="ask after the block has begun")
        reading = import_module(
            "streaming.read.runs"
        )  # by its name: who records needs nothing of what it takes to read
        return reading.runs(self._latest.parent)[self._latest.stem]

    def table(self) -> Any:
        """Its rows as an Arrow table."""
        return self.recorded.table()

    def to_pandas(self) -> Any:
        """Its rows as a data frame."""
        return self.recorded.to_pandas()

    def summary(self) -> dict[str, Any]:
        """Its figures: averages, peaks, totals."""
        found: dict[str, Any] = self.recorded.summary()
        return found

    def _repr_html_(self) -> str | None:
        """Its charts, in a notebook."""
        shown: str | None = self.recorded._repr_html_() if self._latest else None
        return shown

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._children.get(threading.get_ident())
        child = entered.pop() if entered else None
        _open_blocks.depth = max(0, getattr(_open_blocks, "depth", 0) - 1)
        if child is None or self._pid != os.getpid():
            return
        # Within another block a wait would be recorded as that one's work: the run is delivered meanwhile.
        wait_s = 0.0 if _open_blocks.depth else self._stop_timeout_s
        exit_code = _exit_code(error)
        ending = {
            "exit_code": exit_code,
            "run_status": "finished" if exit_code == 0 else "failed",
            "used": asdict(used_by_us()),
            "timeout_s": wait_s,
        }
        child.tell(json.dumps(ending).encode())
        if child.wait(wait_s + config.EXIT_TIMEOUT_S):
            is_waited_for = wait_s > 0 and self._plan.delivery.token is not None
            _tell_waiting(child.answer(), is_waited_for=is_waited_for)
        child.close()


def _positive(given: float | None, name: str, settings: Mapping[str, Any], *, least: float) -> float:
    """The argument or the setting, at least `least`. Raises BadArgument for an argument that is no time at all."""
    seconds = config.wait_s(settings[name] if given is None else given, name)
    if given is not None and given <= 0:
        raise BadArgument(f"{name}={given!r} must be greater than 0", hint=f"give {least:g} or more")
    return max(least, seconds)


def _filled(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, what the environment says of the rest, and then the scheduler."""
    named = {name: settings[name] for name in config.METADATA_NAMES if name in settings}
    tags = {**settings.get(config.TAGS.name, {}), **(metadata.get("tags") or {})}
    given = {name: value for name, value in metadata.items() if value is not None}
    return {**named, **given, **({"tags": tags} if tags else {})}


def _exit_code(error: BaseException | None) -> int:
    """The exit code that the program would have if it ended by this exception."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return code if abs(code) < 1 << 31 else 255
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _tell_waiting(answer: bytes, *, is_waited_for: bool) -> None:
    """One line if the run is not delivered: a warning if that was waited for, else a notice."""
    try:
        told = json.loads(answer)
    except ValueError:
        log.warning("track.lost: the tracker process ended early; its rows are delivered by: tracker-stream drain")
        return
    if told["answer"] is None:
        log.log(logging.WARNING if is_waited_for else logging.INFO, "run.waiting: %s", told["waiting"])
