"""The parts of one run while they are brought up to date: what is known, what is new, what is merged with what."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from streaming.server.metrics import parts
from streaming.server.metrics.parse import ObjectFacts, joined
from streaming.server.metrics.parts import Part
from streaming.server.metrics.rows import StoredRows
from streaming.server.metrics.worker import NoRoomForRows, TooMuchWork, WorkerPool, no_room_told
from streaming.server.storage.objects import StoredObject
from streaming.tables.object_names import order_of

MAX_ROWS = 10_000_000  # of a run: one request may hold a column of so many


class RunFolder:
    """Changed by one thread at a time. What is on disk is whole after every line."""

    def __init__(self, path: Path, tenant: int, workers: WorkerPool, known: StoredRows | None) -> None:
        self._path = path
        self._tenant = tenant
        self._workers = workers
        self.parts: list[Part] = list(known.parts) if known is not None else parts.load(path)
        self.objects = dict(known.all_objects) if known is not None else _by_key(self.parts)
        if known is None and path.exists():
            path.touch()  # for `evict`

    def is_new(self, entry: StoredObject) -> bool:
        """A peer may put other content under a key that it used before."""
        facts = self.objects.get(entry.key)
        return facts is None or (facts.etag, facts.size_bytes) != (entry.etag, entry.size_bytes)

    def has_all(self, keys: Sequence[str]) -> bool:
        """Whether all of these could be read."""
        return all(key in self.objects and self.objects[key].error is None for key in keys)

    def add(self, found: Sequence[tuple[ObjectFacts, bytes]]) -> None:
        """Parse objects into a new part; one that takes too much work is an error, and keeps no other from being read."""
        if not found:
            return None
        if sum(part.row_count for part in self.parts) > MAX_ROWS:
            return self._add_errors([facts for facts, _ in found], f"the run has more than {MAX_ROWS} rows")
        path = self._next_path()
        try:
            self._workers.parse(self._tenant, path, found)
        except TooMuchWork:
            if len(found) == 1:
                return self._add_errors([found[0][0]], "it takes too much time or memory to read")
            for one in found:
                self.add([one])
            return None
        return self._take(path)

    def add_text(self, facts: ObjectFacts, text: bytes) -> None:
        """The same of rows that came in a request."""
        path = self._next_path()
        try:
            self._workers.parse_text(self._tenant, path, facts, text)
        except TooMuchWork:
            return self._add_errors([facts], "it takes too much time or memory to read")
        return self._take(path)

    def settle(self, keys: Sequence[str] | None) -> None:
        """Bring the rows into the order of `keys`, without other objects' (None: in the order of their names, all of them);
        and make few parts of many, so that each row is copied a few times over a run's whole life.
        """
        held = [facts.key for part in self.parts for facts in part.objects if not facts.is_stray]
        wanted = sorted(self.objects, key=order_of) if keys is None else [key for key in keys if key in self.objects]
        count = sum(len(part.objects) for part in self.parts)
        if held != wanted or count != len(self.objects):
            try:
                self._merge(self.parts, wanted)
            except TooMuchWork:  # in truth: one of them is damaged. All are read again at the next look
                self._discard()
        with suppress(TooMuchWork, NoRoomForRows):
            while len(self.parts) > 1 and self._is_worth_merging(*self.parts[-2:]):
                self._merge(self.parts[-2:], None)

    @staticmethod
    def _is_worth_merging(earlier: Part, last: Part) -> bool:
        sizes = [len(part.objects) + part.row_count for part in (earlier, last)]
        return sizes[1] * 2 >= sizes[0] and earlier.row_count + last.row_count <= parts.LARGEST_ROWS

    def _merge(self, chosen: Sequence[Part], keys: Sequence[str] | None) -> None:
        path = self._next_path()
        self._workers.merge(self._tenant, path, [part.path for part in chosen], keys)
        self.parts = [part for part in self.parts if part not in chosen]
        for made in sorted(self._path.glob(f"*{parts.SUFFIX}")):
            if made >= path:
                self._take(made)

    def _discard(self) -> None:
        for part in self.parts:
            part.path.unlink(missing_ok=True)
        self.parts, self.objects = [], {}

    def _add_errors(self, objects: Sequence[ObjectFacts], error: str) -> None:
        path = self._next_path()
        with no_room_told():
            parts.write(path, [replace(facts, error=error) for facts in objects], joined([]))
        self._take(path)

    def _next_path(self) -> Path:
        with no_room_told():
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return parts.next_path(self._path, self.parts)

    def _take(self, path: Path) -> None:
        part = parts.open_part(path)
        self.parts.append(part)
        self.objects.update((facts.key, facts) for facts in part.objects)


def _by_key(found: Sequence[Part]) -> dict[str, ObjectFacts]:
    """The newest part has the last word."""
    return {facts.key: facts for part in found for facts in part.objects}


def evict(directory: Path, *, limit_bytes: int) -> None:
    """Delete the runs used longest ago until the others fit."""
    sizes = {}
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            sizes[path] = (path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()))
    total = 0
    for path, (_, size) in sorted(sizes.items(), key=lambda item: item[1][0], reverse=True):
        total += size
        if total > limit_bytes:
            shutil.rmtree(path, ignore_errors=True)
