"""Parses strangers' objects in a process of its own, which may be killed: by its memory limit, by its own clock, or by us.

The clock counts the processor's time: on a busy machine an object takes longer, and no more work.

An order is a line of JSON and then the objects' bytes; the answer to it is a part on disk. Each process serves one order at
a time, and ends itself when it is asked for nothing for a while or when its other end is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streaming.server.errors import Unavailable

if TYPE_CHECKING:
    from streaming.server.metrics.parse import ObjectFacts

MEMORY_LIMIT_BYTES = 2 * 2**30
ORDER_TIMEOUT_S = 10.0  # of the processor's time
_IDLE_S = 60.0
_BUSY_FACTOR, _GRACE_S = 6.0, 60.0  # how much longer we wait for it
_CLOSING_S = 1.0
_DONE = b"done"
_NOT_ITS_WORK = (0, -signal.SIGKILL, -signal.SIGTERM)  # idle for long; or ended by somebody else
_ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from streaming.server.metrics.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
# Arrow's other allocators reserve address space by the gigabyte, which the memory limit would count.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


class TooMuchWork(Exception):
    """The order took too much time or memory, and the process was killed (or a part that it needed is damaged)."""


class NoRoomForRows(Unavailable):
    """The disk takes no more rows."""


@contextlib.contextmanager
def no_room_told() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise NoRoomForRows(
            f"The rows cannot be kept: {exc.strerror}.", hint="Free space on the server's disk."
        ) from exc


class WorkerPool:
    """At most `count` processes, started when there is work, and no more than one for a tenant at a time. Thread-safe."""

    def __init__(
        self, count: int = 2, *, timeout_s: float = ORDER_TIMEOUT_S, memory_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        self._count = count
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._changed = threading.Condition()
        self._busy: set[int] = set()
        self._idle: list[_Worker] = []
        self._is_closed = False

    def parse(self, tenant: int, path: Path, objects: Sequence[tuple[ObjectFacts, bytes]]) -> None:
        """Write these objects' rows to a part at `path`. Raises TooMuchWork, NoRoom."""
        order = {"path": str(path), "objects": [asdict(facts) for facts, _ in objects]}
        self._serve(tenant, order, [content for _, content in objects])

    def parse_text(self, tenant: int, path: Path, facts: ObjectFacts, text: bytes) -> None:
        """The same of plain text. Raises TooMuchWork, NoRoom."""
        self._serve(tenant, {"path": str(path), "objects": [asdict(facts)], "plain": True}, [text])

    def merge(self, tenant: int, path: Path, sources: Sequence[Path], keys: Sequence[str] | None) -> None:
        """Make one part of several (see `parts.merge`). Raises TooMuchWork, NoRoom."""
        self._serve(tenant, {"path": str(path), "merge": [str(source) for source in sources], "keys": keys}, [])

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _serve(self, tenant: int, order: dict[str, Any], contents: Sequence[bytes]) -> None:
        worker = self._take(tenant)
        try:
            if not worker.do(order, contents, self._timeout_s):
                raise TooMuchWork
        finally:
            self._give_back(tenant, worker)

    def _take(self, tenant: int) -> _Worker:
        with self._changed:
            self._changed.wait_for(lambda: tenant not in self._busy and len(self._busy) < self._count)
            self._busy.add(tenant)
            return self._idle.pop() if self._idle else _Worker(self._memory_bytes)

    def _give_back(self, tenant: int, worker: _Worker) -> None:
        with self._changed:
            self._busy.discard(tenant)
            if not self._is_closed:
                self._idle.append(worker)
            else:
                worker.close()
            self._changed.notify_all()


class _Worker:
    """One process, started when it is first needed and again after it ended."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[bytes, bytes] | None = None

    def do(self, order: dict[str, Any], contents: Sequence[bytes], timeout_s: float) -> bool:
        """Whether the order was done. If the process was gone for another reason, another one is asked."""
        for _ in range(2):
            answer = self._answer(json.dumps({**order, "timeout_s": timeout_s}).encode(), contents, timeout_s)
            if answer == _DONE:
                return True
            if answer is not None:
                raise NoRoomForRows(
                    f"The rows cannot be kept: {answer.decode()}.", hint="Free space on the server's disk."
                )
            if not self._ended_otherwise():
                break
        return False

    def _answer(self, order: bytes, contents: Sequence[bytes], timeout_s: float) -> bytes | None:
        """None if the process ended before it answered, or its time is over."""
        pipe = self._pipe or self._start()
        with contextlib.suppress(OSError, EOFError):
            pipe.send_bytes(order)
            for content in contents:
                pipe.send_bytes(content)
            if pipe.poll(timeout_s * _BUSY_FACTOR + _GRACE_S):
                return pipe.recv_bytes()
        return None

    def _ended_otherwise(self) -> bool:
        """End the process; whether it was gone for another reason than this order."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_S)
        code = self._process.poll()
        self.close()
        return code in _NOT_ITS_WORK

    def _start(self) -> Connection[bytes, bytes]:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(_ROOT), str(theirs.fileno()), str(self._memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT},
            )
        return self._pipe

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve(descriptor: int, memory_bytes: int) -> None:
    """What the process does. Ends with 0 only when it is idle or alone."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, wherever the parsing is
    _warm_up()
    pipe: Connection[bytes, bytes] = Connection(descriptor)
    while pipe.poll(_IDLE_S):
        try:
            order = json.loads(pipe.recv_bytes())
            contents = [pipe.recv_bytes() for _ in order.get("objects", ())]
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, order["timeout_s"])
        answer = _DONE
        try:
            _do(order, contents)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError):
                raise
            answer = (exc.strerror or str(exc)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(answer)
        del contents


def _warm_up() -> None:
    """Import all that an order needs, also what Arrow imports when it is first used (pandas, if it is there)."""
    import pyarrow as pa

    from streaming.server.metrics import parse, parts  # noqa: F401

    pa.set_cpu_count(1)
    parse.parse_texts([(parse.ObjectFacts("", "", 0, 0.0), b"timestamp\n1\n")])


def _do(order: dict[str, Any], contents: Sequence[bytes]) -> None:
    from streaming.server.metrics import parse, parts

    path = Path(order["path"])
    if "merge" in order:
        parts.merge(path, [Path(source) for source in order["merge"]], order["keys"])
        return
    described = [parse.ObjectFacts(**fields) for fields in order["objects"]]
    read = parse.parse_texts if order.get("plain") else parse.parse_objects
    parts.write(path, *read(list(zip(described, contents, strict=True))))
