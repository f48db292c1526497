"""A durable spool of CSV rows: one SQLite file per run, appended by a tracker, drained by an uploader.

This package knows no network and imports nothing but the standard library (sqlite-utils only where an old spool is
migrated, platformdirs only where no directory is given).
"""

from spool.errors import SpoolError
from spool.model import Batch, NewRun, Registration, Run, RunState, Segment, SegmentState, Tracker
from spool.spool import Spool

__all__ = [
    "Batch",
    "NewRun",
    "Registration",
    "Run",
    "RunState",
    "Segment",
    "SegmentState",
    "Spool",
    "SpoolError",
    "Tracker",
]
