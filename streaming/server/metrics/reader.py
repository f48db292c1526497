"""Brings a run's rows from S3 to disk: each object once, when it is noticed, parsed by a process that may be killed.

On disk are the rows (`parts`), in memory what is known of the objects of the runs used last; S3 has the truth.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from streaming.server.errors import StoreUnavailable, Unavailable
from streaming.server.metrics.folder import RunFolder, evict
from streaming.server.metrics.parse import ObjectFacts
from streaming.server.metrics.parts import DamagedPart
from streaming.server.metrics.rows import StoredRows
from streaming.server.metrics.worker import WorkerPool
from streaming.server.storage.objects import Bucket, StoredObject
from streaming.server.storage.runs import RegisteredRun, RunStore
from streaming.tables.object_names import order_of

INLINE_KEY = "(inline)"
MAX_OBJECT_BYTES = 64 * 2**20
DISK_LIMIT_BYTES = 4 * 2**30
MEMORY_LIMIT_OBJECTS = 200_000  # some 600 bytes each
FRESH_S = 2.0
FULL_LIST_EVERY_S = 60.0
MOST_WAITING = 8  # requests of one tenant for rows: more are answered with what is known
PATIENCE_S = 30.0
_THREADS = 4
_BATCH = 256
_BATCH_BYTES = 8 * 2**20


Answer = TypeVar("Answer")


class TooManyReaders(Unavailable):
    """Too many requests wait for rows already."""


@dataclass
class _Entry:
    """What is known of one run. All but the rows speak of the last look into the bucket."""

    rows: StoredRows | None = None
    synced_at: float = 0.0
    listed_at: float | None = None
    is_complete: bool = False
    is_outage: bool = False
    as_finished: bool = False
    weight: int = 0
    user_count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Reading:
    """The rows that could be read; `is_complete` is false when some object could not, the timeout expired, or they are
    those of an earlier look while somebody else looks.

    `is_outage`: S3 did not answer, so that it is not known what is missing.
    """

    rows: StoredRows
    is_complete: bool
    is_outage: bool = False


class RunReader:
    """Thread-safe. One look into the bucket per run at a time; a few others wait for it and use what it brought."""

    def __init__(
        self,
        objects: Bucket,
        runs: RunStore,
        directory: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        memory_limit_objects: int = MEMORY_LIMIT_OBJECTS,
        workers: WorkerPool | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._objects = objects
        self._runs = runs
        self._directory = directory
        self._monotonic = monotonic
        self._memory_limit_objects = memory_limit_objects
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._waiting: Counter[int] = Counter()  # requests of each tenant
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="server-reader")
        self._workers = workers or WorkerPool()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._workers.close()

    def read(self, run: RegisteredRun, *, fresh_s: float = FRESH_S, timeout_s: float | None = None) -> Reading:
        """The run's rows as of at most `fresh_s` ago.

        Raises StoreUnavailable or Busy only if nothing at all is known yet.
        """
        with self._turn(run) as (entry, is_mine):
            if is_mine and not self._is_fresh(entry, run, fresh_s):
                self._sync(entry, run, timeout_s)
            if entry.rows is None:
                raise TooManyReaders("The rows are being read.", hint="Try again in a moment.")
            is_current = is_mine or self._is_fresh(entry, run, fresh_s)
            return Reading(entry.rows, entry.is_complete and is_current, entry.is_outage)

    def using(self, run: RegisteredRun, ask: Callable[[Reading], Answer], **how: Any) -> Answer:
        """What `ask` answers of the run's rows; asked again if a part on disk proves damaged, or was merged meanwhile."""
        try:
            return ask(self.read(run, **how))
        except DamagedPart as damage:
            self.forget(run, damage)
            return ask(self.read(run, **{**how, "fresh_s": 0}))

    def forget(self, run: RegisteredRun, damage: DamagedPart) -> None:
        """Delete what cannot be read; its objects are read anew."""
        with self._turn(run) as (entry, is_mine):
            if is_mine and entry.rows and any(part.path == damage.path for part in entry.rows.parts):
                damage.path.unlink(missing_ok=True)
                entry.rows, entry.listed_at = None, None

    def drop(self, run: RegisteredRun) -> None:
        """Keep nothing of a run that was deleted."""
        with self._turn(run) as (entry, _):
            shutil.rmtree(self._directory / run.run_id, ignore_errors=True)
            entry.rows, entry.listed_at = None, None

    def tidy(self) -> None:
        """Keep the directory within its limit."""
        evict(self._directory, limit_bytes=DISK_LIMIT_BYTES)

    @contextmanager
    def _turn(self, run: RegisteredRun) -> Iterator[tuple[_Entry, bool]]:
        """Alone with the run; or not, after too long or when too many requests of this tenant wait already."""
        with self._lock:
            entry = self._entries.setdefault(run.run_id, _Entry())
            self._entries.move_to_end(run.run_id)
            entry.user_count += 1
            self._waiting[run.token_id] += 1
            is_crowded = self._waiting[run.token_id] > MOST_WAITING
        is_mine = False
        try:
            is_mine = not is_crowded and entry.lock.acquire(timeout=self._patience_s)
            yield entry, is_mine
        finally:
            if is_mine:
                entry.lock.release()
            with self._lock:
                entry.user_count -= 1
                self._waiting[run.token_id] -= 1
                self._waiting += Counter()  # without those who wait no more
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        weight = sum(entry.weight for entry in self._entries.values())
        for run_id, entry in list(self._entries.items()):
            if weight <= self._memory_limit_objects:
                return
            if not entry.user_count:
                weight -= entry.weight
                del self._entries[run_id]

    def _is_fresh(self, entry: _Entry, run: RegisteredRun, fresh_s: float) -> bool:
        """A finished run that was read completely stays as it is."""
        if entry.rows is None or entry.as_finished != run.is_finished:
            return False
        settled = run.is_finished and entry.is_complete
        return settled or self._monotonic() - entry.synced_at < fresh_s

    def _sync(self, entry: _Entry, run: RegisteredRun, timeout_s: float | None) -> None:
        """Bring the rows up to date. Raises StoreUnavailable if nothing is known."""
        folder = RunFolder(self._directory / run.run_id, run.token_id, self._workers, entry.rows)
        deadline = None if timeout_s is None else self._monotonic() + timeout_s
        try:
            complete, entry.is_outage = (
                self._fetch_new(run, folder, deadline, after=self._list_after(entry, run, folder)),
                False,
            )
        except StoreUnavailable:
            if not folder.objects:
                raise
            complete, entry.is_outage = False, True
        if entry.rows is None or entry.rows.parts != tuple(folder.parts) or entry.as_finished != run.is_finished:
            folder.settle(_keys_that_count(run))
            entry.rows = StoredRows(folder.parts)
            entry.weight = 1 + len(folder.objects)
        entry.is_complete, entry.as_finished = complete, run.is_finished
        entry.synced_at = self._monotonic()

    def _list_after(self, entry: _Entry, run: RegisteredRun, folder: RunFolder) -> str | None:
        """None: list everything. A live run's later objects nearly always sort behind what is known, so in between only
        those are listed; what comes otherwise (`10000` after `9999`, other content under an old key) is seen a bit later.
        """
        now = self._monotonic()
        is_listed = entry.listed_at is not None and now - entry.listed_at < FULL_LIST_EVERY_S
        if folder.objects and not run.is_finished and is_listed:
            return max(folder.objects)
        entry.listed_at = now
        return None

    def _fetch_new(self, run: RegisteredRun, folder: RunFolder, deadline: float | None, *, after: str | None) -> bool:
        """Add what is new; whether all of it could be read in time."""
        if run.data_source == "inline":
            self._add_inline(run, folder)
            return True
        keys = keys_of(run)
        if _was_complete(run) and folder.has_all(keys):  # listing 10,000 objects takes longer than all the rest
            return True
        listed = list(self._objects.list(f"{run.prefix}/", after=after))
        new = [entry for entry in listed if folder.is_new(entry)]
        for batch in _batches(sorted(new, key=lambda entry: order_of(entry.key))):
            if deadline is not None and self._monotonic() > deadline:
                return False
            fetched: list[tuple[ObjectFacts, bytes]] = []
            try:
                fetched.extend(self._pool.map(self._fetch, batch))
            finally:  # what came before S3 failed need not be read again
                folder.add(fetched)
        return folder.has_all(keys)

    def _add_inline(self, run: RegisteredRun, folder: RunFolder) -> None:
        text = None if INLINE_KEY in folder.objects else self._runs.inline_csv(run.run_id)
        if text is None or run.finished_at is None:
            return
        digest = hashlib.sha256(text).hexdigest()
        folder.add_text(ObjectFacts(INLINE_KEY, "", len(text), run.finished_at.timestamp(), digest), text)

    def _fetch(self, entry: StoredObject) -> tuple[ObjectFacts, bytes]:
        facts = ObjectFacts(entry.key, entry.etag, entry.size_bytes, entry.modified_at.timestamp())
        if entry.size_bytes > MAX_OBJECT_BYTES:
            return replace(facts, error=f"larger than {MAX_OBJECT_BYTES} bytes"), b""
        return facts, self._objects.read(entry.key)


def _keys_that_count(run: RegisteredRun) -> list[str] | None:
    """What the finish named, and nothing else that lies below the run's prefix: a copy that was drained leaves its objects
    there. None while nobody knows: all of them."""
    if not run.is_finished:
        return None
    return [INLINE_KEY] if run.data_source == "inline" else keys_of(run)


def keys_of(run: RegisteredRun) -> list[str]:
    """The keys that the run's finish listed."""
    return [uri.removeprefix("s3://").partition("/")[2] for uri in run.data_uris]


def _was_complete(run: RegisteredRun) -> bool:
    """Whether the run has finished, and everything was read once after that."""
    return run.is_finished and (run.statistics or {}).get("complete") is True


def _batches(entries: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    """Neighbours, few enough to be in memory at once."""
    batch: list[StoredObject] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) >= _BATCH or size + entry.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size_bytes
    if batch:
        yield batch


def compute_statistics(
    run: RegisteredRun, runs: RunStore, reader: RunReader, *, timeout_s: float | None
) -> dict[str, Any]:
    """Read, compute, and keep. `complete` says whether every object of the finish could be read in time."""

    def computed(reading: Reading) -> dict[str, Any]:
        sketch = asdict(reading.rows.sketch)
        return {**reading.rows.figures, "complete": reading.is_complete, "sketch": sketch}

    try:
        statistics = reader.using(run, computed, fresh_s=0, timeout_s=timeout_s)
    except Unavailable:
        statistics = {**StoredRows(()).figures, "complete": False}
    runs.set_statistics(run.run_id, statistics)
    return {name: value for name, value in statistics.items() if name != "sketch"}
