"""SLURM's word on jobs of this user: is one over? Asked with a short timeout, remembered for a while, never required."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from functools import cache

from streaming.processes import launch

TIMEOUT_S = 3.0
REMEMBERED_S = 10.0
SILENT_S = 60.0  # SLURM that gave no answer is not asked again for so long
_JOB = re.compile(r"([^/\s]+)/([0-9]{1,12})/([0-9]{1,6})")
# The job has no process any more. One that is COMPLETING may have some; a PENDING one was requeued.
_OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING"} | {
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}


def job_is_over(job: str) -> bool:
    """Whether SLURM here says that this execution of the job (`streaming.collect.scheduler.slurm_job`) is over."""
    parts = _JOB.fullmatch(job)
    if parts is None or parts[1] != _cluster():
        return False
    jobs = _JOBS.now()
    if jobs is None:
        return False
    state, restarts = jobs.get(parts[2], ("COMPLETED", 0))  # SLURM forgets jobs minutes after their end
    return state in _OVER or restarts > int(parts[3])


class _Jobs:
    """All jobs of this user by number: state, and how often each was started again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, int]] | None = None
        self._ask_at = 0.0

    def now(self) -> dict[str, tuple[str, int]] | None:
        """None while SLURM does not answer."""
        with self._lock:
            if time.monotonic() >= self._ask_at:
                self._known = _ask_for_jobs()
                self._ask_at = time.monotonic() + (SILENT_S if self._known is None else REMEMBERED_S)
            return self._known


_JOBS = _Jobs()


def _ask_for_jobs() -> dict[str, tuple[str, int]] | None:
    form = "JobID:30,State:30,RestartCnt:30"
    text = _answer("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--Format={form}")
    if text is None:
        return None
    lines = [line.split() for line in text.splitlines()]
    return {line[0]: (line[1], int(line[2])) for line in lines if len(line) == 3 and line[2].isdigit()}


@cache
def _cluster() -> str | None:
    """The name of the cluster that is asked here: numbers of another one's jobs mean nothing to it."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", _answer("scontrol", "show", "config") or "", re.MULTILINE)
    return found[1] if found else None


def _answer(*words: str) -> str | None:
    """What a command says, None if it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
            env=launch.environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
