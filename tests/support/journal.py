"""What the far end accepted, written before it answered."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SECRET_HEADERS = {"authorization", "x-amz-security-token"}


@dataclass(frozen=True)
class Entry:
    """One request. `stored`: the far end did what was asked; `status`: what it means to answer (None: nothing)."""

    number: int
    arrived_at_s: float  # time.monotonic() when the head had arrived
    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    body_bytes: int | None  # None: the body was not read to its end
    body_sha256: str | None
    stored: bool
    status: int | None
    fault: str
    run_id: str | None = None
    uri: str | None = None
    access_key: str | None = None
    payload: Any = None  # the JSON of a service call

    @property
    def outcome(self) -> str:
        done = "stored" if self.stored else "not stored"
        told = "no answer" if self.status is None else str(self.status)
        return f"{done}, {told}" + (f" ({self.fault})" if self.fault else "")

    def __str__(self) -> str:
        return f"{self.number} {self.arrived_at_s:.3f} {self.kind} {self.method} {self.path}: {self.outcome}"


class Journal:
    """An append-only list that any thread may read, and wait on. With `path`, also a file of JSON lines, no secrets."""

    def __init__(self, path: Path | None = None) -> None:
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._path = path

    def append(self, **fields: Any) -> Entry:
        with self._changed:
            entry = Entry(number=len(self._entries) + 1, **fields)
            self._entries.append(entry)
            self._write(entry)
            self._changed.notify_all()
        return entry

    def _write(self, entry: Entry) -> None:
        if self._path is None:
            return
        row = {**asdict(entry), "headers": {k: v for k, v in entry.headers.items() if k not in SECRET_HEADERS}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def requests(
        self,
        kind: str | None = None,
        *,
        stored: bool | None = None,
        status: int | None = None,
        matching: Callable[[Entry], bool] | None = None,
    ) -> list[Entry]:
        """The requests so far, in order of their outcome, that fit all that is given."""
        with self._changed:
            entries = list(self._entries)
        return [
            entry
            for entry in entries
            if (kind is None or entry.kind == kind)
            and (stored is None or entry.stored == stored)
            and (status is None or entry.status == status)
            and (matching is None or matching(entry))
        ]

    def count(self, kind: str | None = None, *, stored: bool | None = None) -> int:
        return len(self.requests(kind, stored=stored))

    def intervals_s(self, kind: str | None = None) -> list[float]:
        """The times between the arrivals of such requests: what backoff and Retry-After are asserted on."""
        times = sorted(entry.arrived_at_s for entry in self.requests(kind))
        return [later - earlier for earlier, later in pairwise(times)]

    def wait_for(self, predicate: Callable[["Journal"], Any], deadline_s: float = 60.0) -> Any:
        """Return what `predicate(journal)` returns as soon as it is true, looking at every append."""
        until = time.monotonic() + deadline_s
        while not (met := predicate(self)):
            with self._changed:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise AssertionError(f"not met within {deadline_s} s; the journal says:\n{self}")
                self._changed.wait(min(left_s, 0.05))  # also looks now and then: a predicate may ask more than us
        return met

    def wait_for_count(
        self, kind: str, count: int, deadline_s: float = 60.0, *, stored: bool | None = None
    ) -> list[Entry]:
        self.wait_for(lambda journal: journal.count(kind, stored=stored) >= count, deadline_s)
        return self.requests(kind, stored=stored)

    def clear(self) -> None:
        with self._changed:
            self._entries.clear()

    def __str__(self) -> str:
        return "\n".join(map(str, self.requests())) or "(empty)"


def sha256_hex(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
