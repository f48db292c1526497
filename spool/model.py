"""The values that a spool holds: runs, batches, segments. Frozen, and free of any I/O.

Times are seconds since the epoch, UTC (`*_at`); texts leave the process as ISO-8601.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any

BATCH_MAX_BYTES = 255 << 20  # of one batch's rows: they are one value in SQLite, and in memory when they are sent


class RunState(str, Enum):
    """A run's life: open (its tracker may append) -> ended (end recorded) -> finished (the service acknowledged)."""

    OPEN = "open"
    ENDED = "ended"
    FINISHED = "finished"


class SegmentState(str, Enum):
    """A segment's life: sealed (fixed for good) -> sent (storage proven), or rejected (kept, shown)."""

    SEALED = "sealed"
    SENT = "sent"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Tracker:
    """Which process appends, and what shows others that it lives.

    A pid alone means nothing after a reboot, in another container or on another machine. From there, the rows and
    heartbeats of a process are all that can be seen of it. Older versions wrote the first five fields only.
    """

    pid: int
    started_at: str
    boot_id: str
    pid_namespace: str
    host: str
    proof: str = ""  # that it is this user's own, where it feeds a CSV file (`spool.key`)
    checked: str = ""  # that the file was taken in from elsewhere, and is ours now (`spool.recovery.guest`)
    heartbeat_s: float = 0.0  # a row or a heartbeat is there at least this often; 0: nobody knows
    heartbeat_at: float = 0.0  # the newest heartbeat: there is none while rows come
    slurm_job: str = ""  # the job that it belongs to (`streaming.collect.scheduler.slurm_job`)
    file_mark: str = ""  # what the file has that it writes to, and a copy has not (`directory.file_mark`)
    lost_row_count: int = 0  # rows that it took, and could not keep anywhere

    def continued_by(self, process: Tracker) -> Tracker:
        """From now on another process tracks the same run."""
        identity = ("pid", "started_at", "boot_id", "pid_namespace", "host")
        return replace(self, **{name: getattr(process, name) for name in identity})


@dataclass(frozen=True)
class NewRun:
    """What is known of a run when it begins. `host_info`/`cloud_info` None means: discover them."""

    tracker: Tracker
    started_at: float
    token: str | None = field(default=None, repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    host_info: dict[str, Any] | None = None
    cloud_info: dict[str, Any] | None = None
    csv_path: str | None = None
    api_url: str = ""
    s3_endpoint_url: str | None = None
    upload_interval_s: float = 60


@dataclass(frozen=True)
class Registration:
    """The service's answer to register, as far as it may be kept on disk (never credentials)."""

    run_id: str
    upload_uri_prefix: str
    page: str | None = None  # where the service shows the run, if it said so: see `Run.page_url`

    @property
    def kept(self) -> tuple[str, str, str]:
        """As columns of the run record."""
        return self.run_id, self.upload_uri_prefix, json.dumps({"page": self.page})


@dataclass(frozen=True)
class Run:
    """The run record of a spool."""

    spool_id: str
    state: RunState
    tracker: Tracker
    started_at: float
    metadata: dict[str, Any]
    host_info: dict[str, Any] | None
    cloud_info: dict[str, Any] | None
    csv_path: str | None
    api_url: str
    s3_endpoint_url: str | None
    upload_interval_s: float
    has_token: bool
    registration: Registration | None
    ended_at: float | None
    exit_code: int | None
    run_status: str | None
    finish_answer: dict[str, Any] | None
    finished_at: float | None
    parked: str | None
    problem: str | None
    problem_cause: str | None
    problem_at: float | None

    @property
    def page_url(self) -> str | None:
        """Where the service shows the run, if its last answer said so: a plain path below its own address."""
        path = self.registration.page if self.registration else None
        is_plain = path is not None and re.fullmatch(r"(/[A-Za-z0-9_-]{1,80}){1,4}", path)
        return f"{self.api_url}{path}" if is_plain and self.api_url else None


@dataclass(frozen=True)
class Batch:
    """CSV lines that are appended atomically: `rows` are whole lines, each with its newline, below `header`."""

    header: bytes
    rows: bytes

    @property
    def row_count(self) -> int:
        return self.rows.count(b"\n")

    @property
    def sha256(self) -> bytes:
        """32 bytes over header and rows: a row under the wrong header is damage too."""
        digest = hashlib.sha256(self.header)
        digest.update(self.rows)
        return digest.digest()


@dataclass(frozen=True)
class Doubt:
    """An append whose COMMIT reported an I/O error: nobody knows whether it is there, until a later commit comes through.

    The batches that may be in the spool, the last of them under this id. Callers append such rows again, perhaps with more
    behind them; what is there already must not be appended twice.
    """

    batches: tuple[Batch, ...]
    last_batch_id: int

    def without_repetition(self, batches: Sequence[Batch]) -> list[Batch]:
        """`batches` without the rows at their beginning that are the doubtful ones; all if they are other rows."""
        rest = list(batches)
        for old in self.batches:
            if not rest or rest[0].header != old.header or not rest[0].rows.startswith(old.rows):
                return list(batches)
            longer = rest[0].rows[len(old.rows) :]
            rest[:1] = [Batch(old.header, longer)] if longer else []
        return rest


@dataclass(frozen=True)
class Segment:
    """A range of batches, fixed for good, that is uploaded as one object."""

    seq: int
    first_batch_id: int
    last_batch_id: int
    header_id: int
    row_count: int
    csv_bytes: int
    sha256: str
    state: SegmentState
    sealed_at: float
    sent_at: float | None
    uri: str | None
    refusal_count: int
    reason: str | None


@dataclass(frozen=True)
class Receipt:
    """The proof that an object is stored."""

    uri: str
    etag: str


@dataclass(frozen=True)
class Backlog:
    """What is not sent: pending and sealed rows. Rejected rows are no longer on their way."""

    row_count: int
    csv_bytes: int
    oldest_at: float | None


@dataclass(frozen=True)
class Counts:
    """Rows of a run, by what became of them. `recorded` = sent + waiting + rejected, or inline at the finish."""

    recorded: int
    sent: int
    waiting: int
    rejected: int
    objects: int


def iso_utc(at: float) -> str:
    """Seconds since the epoch as ISO-8601 UTC with milliseconds, e.g. 2026-11-24T03:47:20.125Z."""
    text = datetime.fromtimestamp(at, tz=timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
