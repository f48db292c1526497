"""A line of the list of runs as JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

_MOMENTS = ("registered_at", "started_at", "ended_at", "last_row_at", "last_upload_at")
_SERVICE_ONLY = ("silent_at",)


def line_json(line: dict[str, Any]) -> dict[str, Any]:
    """Times as ISO-8601 UTC."""
    shown = {name: value for name, value in line.items() if name not in _SERVICE_ONLY}
    return {**shown, **{name: _moment(line[name]) for name in _MOMENTS}}


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    text = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
