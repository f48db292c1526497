"""Streams resource metrics of long runs to the Sentinel API and S3 without losing a row.

`StreamingManager` stands in for the class of the same name in resource-tracker; `track` records a piece of Python;
`runs` reads what was recorded.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.read.runs import runs
    from streaming.record.manager import DataSource, RunStatus, StreamingManager
    from streaming.record.track import track

__all__ = ["DataSource", "RunStatus", "StreamingManager", "runs", "track"]
_MODULES = {"runs": "streaming.read.runs", "track": "streaming.record.track"}


def __getattr__(name: str) -> object:
    """Each name is loaded when it is first asked for: a command that needs none of them starts without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(_MODULES.get(name, "streaming.record.manager")), name)
    globals()[name] = found
    return found
