"""A spool's rows as values. SQLite keeps any value in any column, a flipped bit makes another value of it, and a spool may
come from anywhere: what is read is checked before it is used, and what makes no sense is damage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from spool.errors import SpoolDamaged
from spool.model import Registration, Run, RunState, Segment, SegmentState, Tracker

RUN_COLUMNS = (
    "spool_id, state, tracker, started_at, metadata, host_info, cloud_info, csv_path, api_url,"
    " s3_endpoint_url, upload_interval_s, token_fingerprint IS NOT NULL, run_id, upload_uri_prefix, ended_at,"
    " exit_code, run_status, finish_answer, finished_at, parked, problem, problem_cause, problem_at"
)
_DEPTH_MAX = 100
_NOTE_MAX = 1000
SEGMENT_COLUMNS = tuple(field.name for field in fields_of(Segment))


def run(fields: tuple[Any, ...], path: Path) -> Run:
    """The run record, from its RUN_COLUMNS. Raises SpoolDamaged."""
    with nonsense_is_damage(path, "run record"):
        return _run(fields)


def _run(fields: tuple[Any, ...]) -> Run:
    state = RunState(fields[1])
    answer = _object_or_none(fields[17])  # before the end was told: `Registration.page`, and room (`space.KEPT_ROOM`)
    return Run(
        spool_id=_text(fields[0]),
        state=state,
        tracker=_tracker(_object(fields[2])),
        started_at=_time(fields[3]),
        metadata=_object(fields[4]),
        host_info=_object_or_none(fields[5]),
        cloud_info=_object_or_none(fields[6]),
        csv_path=_path_or_none(fields[7]),
        api_url=_text(fields[8]),
        s3_endpoint_url=_text_or_none(fields[9]),
        upload_interval_s=_time(fields[10]),
        has_token=bool(fields[11]),
        registration=Registration(_text(fields[12]), _text(fields[13]), _page(answer)) if fields[12] else None,
        ended_at=_time_or_none(fields[14]),
        exit_code=None if fields[15] is None else _count(fields[15], least=-(1 << 31)),
        run_status=_text_or_none(fields[16]),
        finish_answer=answer if state is RunState.FINISHED else None,
        finished_at=_time_or_none(fields[18]),
        parked=_note(fields[19]),
        problem=_note(fields[20]),
        problem_cause=_note(fields[21]),
        problem_at=_time_or_none(fields[22]),
    )


def _page(answer: dict[str, Any] | None) -> str | None:
    page = (answer or {}).get("page")
    return page if isinstance(page, str) else None


def segment(row: tuple[Any, ...], path: Path) -> Segment:
    """A segment, from its SEGMENT_COLUMNS. Raises SpoolDamaged."""
    fields = dict(zip(SEGMENT_COLUMNS, row, strict=True))
    with nonsense_is_damage(path, "record of a segment"):
        for name in ("seq", "first_batch_id", "last_batch_id", "header_id", "row_count", "csv_bytes", "refusal_count"):
            _count(fields[name])
        _text(fields["sha256"])
        _time(fields["sealed_at"])
        _time_or_none(fields["sent_at"])
        _text_or_none(fields["uri"])
        fields["reason"] = _note(fields["reason"])
        return Segment(**{**fields, "state": SegmentState(fields["state"])})


@contextmanager
def nonsense_is_damage(path: Path, what: str) -> Iterator[None]:
    """`what` of the spool was read inside the block; if it cannot be what was written, SpoolDamaged."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise SpoolDamaged(f"the {what} of {path} makes no sense ({str(error)[:_NOTE_MAX]})", path=path) from error


def count(value: object, what: str, path: Path) -> int:
    """A count or an offset. Raises SpoolDamaged."""
    with nonsense_is_damage(path, what):
        return _count(value)


def time(value: object, what: str, path: Path) -> float:
    """Seconds since the epoch. Raises SpoolDamaged."""
    with nonsense_is_damage(path, what):
        return _time(value)


def content(value: object, what: str, path: Path) -> bytes:
    """Bytes of CSV. Raises SpoolDamaged."""
    if isinstance(value, bytes):
        return value
    raise SpoolDamaged(f"the {what} of {path} is not bytes", path=path)


def text(value: object, what: str, path: Path) -> str:
    """Raises SpoolDamaged."""
    with nonsense_is_damage(path, what):
        return _text(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{_shown(value)} is not a text")


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _note(value: object) -> str | None:
    """A text for people, none of which needs to be long."""
    text = _text_or_none(value)
    return None if text is None else text[:_NOTE_MAX]


def _path_or_none(value: object) -> str | None:
    path = os.fsdecode(value) if isinstance(value, bytes) else _text_or_none(value)
    if path is not None and "\0" in path:
        raise ValueError("a path with a zero byte")
    return path


def _time(value: object) -> float:
    """Seconds since 1970, before it where a clock is that wrong; from year 1 to 9999, as an ISO-8601 time can say."""
    if isinstance(value, (int, float)) and math.isfinite(value) and -62_135_596_800 <= value < 253_402_300_800:
        return float(value)
    raise TypeError(f"{_shown(value)} is not a time")


def _time_or_none(value: object) -> float | None:
    return None if value is None else _time(value)


def _count(value: object, *, least: int = 0) -> int:
    if isinstance(value, int) and value >= least:
        return value
    raise TypeError(f"{_shown(value)} is not a count")


def _object(value: object) -> dict[str, Any]:
    found = json.loads(_text(value))
    if isinstance(found, dict) and is_shallow(found):
        return found
    raise TypeError(f"{_shown(value)} is not a JSON object")


def is_shallow(value: object) -> bool:
    """Whether a JSON value is nested no deeper than whoever reads or writes it can go down."""
    level = [value]
    for _ in range(_DEPTH_MAX):
        level = [each for outer in level for each in _members(outer)]
        if not level:
            return True
    return False


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _shown(value: object) -> str:
    """The beginning of a value, without anything that a terminal would obey."""
    return repr(value[:50] if isinstance(value, (str, bytes)) else value)[:60]


def _object_or_none(value: object) -> dict[str, Any] | None:
    return None if value is None else _object(value)


def _tracker(fields: dict[str, Any]) -> Tracker:
    return Tracker(
        pid=_count(fields.get("pid")),
        started_at=_text(fields.get("started_at")),
        boot_id=_text(fields.get("boot_id")),
        pid_namespace=_text(fields.get("pid_namespace")),
        host=_text(fields.get("host")),
        proof=_text(fields.get("proof", "")),
        checked=_text(fields.get("checked", "")),
        heartbeat_s=_time(fields.get("heartbeat_s", 0)),
        heartbeat_at=_time(fields.get("heartbeat_at", 0)),
        slurm_job=_text(fields.get("slurm_job", "")),
        file_mark=_text(fields.get("file_mark", "")),
        lost_row_count=_count(fields.get("lost_row_count", 0)),
    )
