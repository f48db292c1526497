"""Brings a run's rows from S3 into memory: only what is new, each object once, within a time limit if there is one.

Memory holds the runs used last, the cache directory what was ever read (up to a limit); S3 has the truth.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from operator import is_not
from pathlib import Path

from streaming.server.errors import StoreUnavailable
from streaming.server.metrics.cache import FrameFile, evict
from streaming.server.metrics.frames import Frame, frame_of_csv, read_frame
from streaming.server.metrics.rows import RunRows
from streaming.server.storage.object_names import order_of
from streaming.server.storage.objects import ObjectStore, StoredObject
from streaming.server.storage.runs import Run, RunStore

INLINE_KEY = "(inline)"
MAX_OBJECT_BYTES = 64 * 2**20
CACHE_LIMIT_BYTES = 4 * 2**30
_THREADS = 4
_BATCH = 64
MEMORY_LIMIT_ROWS = 2_000_000  # about 250 bytes each
FRESH_S = 2.0
FULL_LIST_EVERY_S = 60.0


@dataclass
class _Entry:
    """What is known of one run. All but `frames` and `rows` speak of the last look into the bucket."""

    frames: dict[str, Frame] | None = None
    rows: RunRows = field(default_factory=lambda: RunRows(()))
    synced_at: float = 0.0
    listed_at: float | None = None
    is_complete: bool = False
    as_finished: bool = False


@dataclass(frozen=True)
class Reading:
    """The rows that could be read; `is_complete` is false when some object could not, or the time was over.

    `frames` are all objects below the run's prefix, also such as its finish did not list.
    """

    rows: RunRows
    is_complete: bool
    frames: tuple[Frame, ...]


class RunReader:
    """Thread-safe. One look into the bucket per run at a time; others wait for it and use what it brought."""

    def __init__(
        self,
        objects: ObjectStore,
        runs: RunStore,
        cache: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        memory_limit_rows: int = MEMORY_LIMIT_ROWS,
    ) -> None:
        self._objects = objects
        self._runs = runs
        self._cache = cache
        self._monotonic = monotonic
        self._memory_limit_rows = memory_limit_rows
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._run_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="server-reader")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, run: Run, *, fresh_s: float = FRESH_S, timeout_s: float | None = None) -> Reading:
        """The run's rows as of at most `fresh_s` ago. Raises StoreUnavailable only if nothing at all is known yet."""
        with self._lock:
            run_lock = self._run_locks[run.run_id]
        with run_lock:
            entry = self._entry(run.run_id)
            if not self._is_fresh(entry, run, fresh_s):
                self._sync(entry, run, timeout_s)
            return Reading(entry.rows, entry.is_complete, tuple((entry.frames or {}).values()))

    def tidy(self) -> None:
        """Keep the cache directory within its limit."""
        evict(self._cache, limit_bytes=CACHE_LIMIT_BYTES)

    def peek(self, run: Run) -> RunRows | None:
        """What is in memory, without looking anywhere; None if the run has not been read since the start."""
        with self._lock:
            entry = self._entries.get(run.run_id)
        return entry.rows if entry is not None and entry.frames is not None else None

    def _entry(self, run_id: str) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(run_id, _Entry())
            self._entries.move_to_end(run_id)
            while len(self._entries) > 1 and self._rows_in_memory() > self._memory_limit_rows:
                self._entries.popitem(last=False)
        return entry

    def _rows_in_memory(self) -> int:
        return sum(entry.rows.row_count for entry in self._entries.values())

    def _is_fresh(self, entry: _Entry, run: Run, fresh_s: float) -> bool:
        """A finished run that was read completely stays as it is."""
        if entry.frames is None or entry.as_finished != run.is_finished:
            return False
        settled = run.is_finished and entry.is_complete
        return settled or self._monotonic() - entry.synced_at < fresh_s

    def _sync(self, entry: _Entry, run: Run, timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else self._monotonic() + timeout_s
        file = FrameFile(self._cache / f"{run.run_id}.frames")
        known = file.load() if entry.frames is None else entry.frames
        try:
            complete = self._fetch_new(run, known, file, deadline, after=self._list_after(entry, run, known))
        except StoreUnavailable:
            if not known and not run.is_finished:
                raise
            complete = False
        ordered = [known[key] for key in _keys_in_order(run, known)]
        if len(ordered) != len(entry.rows.frames) or any(map(is_not, ordered, entry.rows.frames)):
            entry.rows = RunRows(ordered, before=entry.rows)
        entry.frames, entry.is_complete, entry.as_finished = known, complete, run.is_finished
        entry.synced_at = self._monotonic()

    def _list_after(self, entry: _Entry, run: Run, known: dict[str, Frame]) -> str | None:
        """None: list everything. A live run's later objects nearly always sort behind what is known, so in between only
        those are listed; what comes otherwise (`10000` after `9999`, other content under an old key) is seen a bit later.
        """
        now = self._monotonic()
        if known and not run.is_finished and entry.listed_at is not None and now - entry.listed_at < FULL_LIST_EVERY_S:
            return max(known)
        entry.listed_at = now
        return None

    def _fetch_new(
        self, run: Run, known: dict[str, Frame], file: FrameFile, deadline: float | None, *, after: str | None
    ) -> bool:
        """Add what is new to `known` and to the file; whether all of it could be read in time."""
        if run.data_source == "inline":
            self._add(known, file, self._inline_frames(run, known))
            return True
        if _is_settled(run, known):  # after a restart: listing 10,000 objects takes longer than all the rest
            return True
        listed = {entry.key: entry for entry in self._objects.list(f"{run.prefix}/", after=after)}
        new = [entry for entry in listed.values() if _is_new(entry, known.get(entry.key))]
        for batch in _batches(sorted(new, key=lambda entry: order_of(entry.key))):
            if deadline is not None and self._monotonic() > deadline:
                return False
            self._add(known, file, self._pool.map(self._read_frame, batch))
        return all(key in known and known[key].error is None for key in keys_of(run))

    def _add(self, known: dict[str, Frame], file: FrameFile, frames: Iterable[Frame]) -> None:
        """A full disk costs the cache, not the answer."""
        found = list(frames)
        known.update((frame.key, frame) for frame in found)
        try:
            file.append(found)
        except OSError:
            return

    def _inline_frames(self, run: Run, known: dict[str, Frame]) -> list[Frame]:
        text = None if INLINE_KEY in known else self._runs.inline_csv(run.run_id)
        if text is None or run.finished_at is None:
            return []
        uploaded_at = run.finished_at.timestamp()
        return [frame_of_csv(text, key=INLINE_KEY, etag="", size_bytes=len(text), uploaded_at=uploaded_at)]

    def _read_frame(self, entry: StoredObject) -> Frame:
        uploaded_at = entry.modified_at.timestamp()
        if entry.size_bytes > MAX_OBJECT_BYTES:
            error = f"larger than {MAX_OBJECT_BYTES} bytes"
            return Frame(entry.key, entry.etag, entry.size_bytes, uploaded_at, error=error)
        content = self._objects.read(entry.key)
        return read_frame(content, key=entry.key, etag=entry.etag, size_bytes=entry.size_bytes, uploaded_at=uploaded_at)


def keys_of(run: Run) -> list[str]:
    """The keys that the run's finish listed."""
    return [uri.removeprefix("s3://").partition("/")[2] for uri in run.data_uris]


def _is_settled(run: Run, known: dict[str, Frame]) -> bool:
    """Whether the run has finished, everything was read once after that, and all of it is still known."""
    was_complete = run.is_finished and (run.statistics or {}).get("complete") is True
    return was_complete and all(key in known and known[key].error is None for key in keys_of(run))


def _keys_in_order(run: Run, known: dict[str, Frame]) -> list[str]:
    """A finished run has the objects that its finish listed, in that order; others are no part of it."""
    if run.is_finished:
        return [key for key in (INLINE_KEY, *keys_of(run)) if key in known]
    return sorted(known, key=order_of)


def _is_new(entry: StoredObject, frame: Frame | None) -> bool:
    """A peer may put other content under a key that it used before."""
    return frame is None or (frame.etag, frame.size_bytes) != (entry.etag, entry.size_bytes)


def _batches(entries: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
