"""A run as a person sees it: its state, its figures, one line of the list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from streaming.server.metrics.reader import RunReader
from streaming.server.metrics.rows import Extent, RunRows
from streaming.server.storage.runs import Run

SILENT_AFTER_S = 300.0
_SILENT_AFTER_GAPS = 3.0
_HOST_NAMES = ("host_hostname", "host_name", "host_id", "cloud_instance_type")  # what is known best of where it ran


class RunState(Enum):
    """`silent`: no word for five minutes, or for three times as long as ever before."""

    REGISTERED = "registered"
    RECORDING = "recording"
    SILENT = "silent"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class _Seen:
    """What is known of a run's rows."""

    row_count: int | None
    object_count: int | None
    extent: Extent


def view_of(run: Run, reader: RunReader, *, now: datetime) -> dict[str, Any]:
    """One line of the list. Reads nothing: what is not known yet is None."""
    seen = _seen(run, reader.peek(run))
    started_at = _moment(seen.extent.first) or run.registered_at
    ended_at = run.ended_at
    given = run.metadata
    return {
        "run_id": run.run_id,
        "state": state_of(run, seen, now).value,
        **{name: given.get(name) for name in ("project_name", "job_name", "stage_name", "task_name", "team", "tags")},
        "host": next((given[name] for name in _HOST_NAMES if given.get(name)), None),
        "registered_at": _json_moment(run.registered_at),
        "started_at": _json_moment(started_at),
        "ended_at": _json_moment(ended_at),
        "duration_s": max(0.0, round(((ended_at or now) - started_at).total_seconds(), 3)),
        "exit_code": run.exit_code,
        "row_count": seen.row_count,
        "object_count": seen.object_count,
        "last_row_at": _json_moment(_moment(seen.extent.last)),
        "last_upload_at": _json_moment(_moment(seen.extent.last_upload_at)),
    }


def state_of(run: Run, seen: _Seen, now: datetime) -> RunState:
    if run.is_finished:
        return RunState.FAILED if run.run_status == "failed" else RunState.FINISHED
    last_word = seen.extent.last_upload_at or run.registered_at.timestamp()
    patience_s = max(SILENT_AFTER_S, seen.extent.longest_pause_s * _SILENT_AFTER_GAPS)
    if now.timestamp() - last_word > patience_s:
        return RunState.SILENT
    return RunState.RECORDING if seen.object_count else RunState.REGISTERED


def _seen(run: Run, rows: RunRows | None) -> _Seen:
    """From memory, or else from the figures of the finish."""
    if rows is not None:
        return _Seen(rows.row_count, len(rows.objects), rows.extent)
    figures = run.statistics or {}
    counted = len(run.data_uris) if run.is_finished else None
    uploaded_at = run.finished_at.timestamp() if run.finished_at else None
    extent = Extent(figures.get("first_timestamp"), figures.get("last_timestamp"), uploaded_at, longest_pause_s=0.0)
    return _Seen(figures.get("row_count"), counted, extent)


@dataclass(frozen=True)
class ListQuery:
    """What of the list is asked for. `sort` is a key of a line, with `-` before it for the other direction."""

    text: str = ""
    states: frozenset[str] = frozenset()
    project: str = ""
    job: str = ""
    tag: str = ""
    sort: str = "-registered_at"

    def select(self, views: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The matching lines in order; those without a value come last, in either direction."""
        found = [view for view in views if self._matches(view)]
        name = self.sort.lstrip("-")
        present = [view for view in found if view.get(name) is not None]
        absent = [view for view in found if view.get(name) is None]
        return sorted(present, key=_sort_key(name), reverse=self.sort.startswith("-")) + absent

    def _matches(self, view: dict[str, Any]) -> bool:
        return (
            (not self.states or view["state"] in self.states)
            and (not self.project or view["project_name"] == self.project)
            and (not self.job or view["job_name"] == self.job)
            and (not self.tag or self.tag in tag_texts(view["tags"]))
            and (not self.text or self._is_found_in(view))
        )

    def _is_found_in(self, view: dict[str, Any]) -> bool:
        text = self.text.casefold()
        return text in _searchable(view) or view["run_id"].startswith(text)


SORT_KEYS = (
    *("run_id", "state", "project_name", "job_name", "team", "host", "exit_code"),
    *("registered_at", "started_at", "ended_at", "duration_s"),
    *("row_count", "object_count", "last_row_at", "last_upload_at"),
)


def tag_texts(tags: Any) -> list[str]:
    """`key=value` of a dict; a list's texts as they are."""
    if isinstance(tags, dict):
        return [f"{key}={value}" for key, value in tags.items()]
    return [text for tag in tags or [] for text in (tag_texts(tag) if isinstance(tag, dict) else [str(tag)])]


def _searchable(view: dict[str, Any]) -> str:
    names = ("project_name", "job_name", "stage_name", "task_name", "team", "host")
    return " ".join([*(str(view[name] or "") for name in names), *tag_texts(view["tags"])]).casefold()


def _sort_key(name: str) -> Callable[[dict[str, Any]], Any]:
    def key(view: dict[str, Any]) -> Any:
        value = view[name]
        return value.casefold() if isinstance(value, str) else value

    return key


def _moment(timestamp: float | None) -> datetime | None:
    """None also for a time that is no date, as of a clock gone mad."""
    try:
        return None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def _json_moment(moment: datetime | None) -> str | None:
    return (
        None
        if moment is None
        else moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
