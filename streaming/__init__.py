"""Streams resource metrics of long runs to the Sentinel API and S3 without losing a row.

`StreamingManager` stands in for the class of the same name in resource-tracker; `track` records a piece of Python.
"""

from typing import TYPE_CHECKING

from streaming.manager import DataSource, RunStatus, StreamingManager

if TYPE_CHECKING:
    from streaming.track import track

__all__ = ["DataSource", "RunStatus", "StreamingManager", "track"]


def __getattr__(name: str) -> object:
    """`track` is loaded when it is asked for."""
    if name == "track":
        from streaming.track import track

        return track
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
