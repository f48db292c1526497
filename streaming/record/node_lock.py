"""One tracker for all that a job runs on a node: the first of its processes takes a lock, for as long as it lives."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from spool import directory, ownership
from spool.errors import Owned, SpoolError

_held = ExitStack()  # until this process ends: the kernel releases it then, whatever ended us


def take(in_directory: Path, job_key: str) -> bool:
    """Whether this process is the one. Where no lock can be had, each is: rather recorded twice than not at all.

    The lock is a file of the spool directory, which nobody else may enter; nodes that share it have host names of their own.
    """
    try:
        directory.prepare(in_directory)
        _held.enter_context(ownership.own(in_directory / f"node-{os.uname().nodename}-{job_key}{directory.SUFFIX}"))
    except Owned:
        return False
    except SpoolError:
        pass  # told where the spool is made
    return True
