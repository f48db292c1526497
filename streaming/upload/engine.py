"""The engine: one process that delivers all the runs of a spool directory, for every tracker and `drain` that asks.

Rows never pass through it: it reads spools. The main thread listens (to orders, to trackers that die, to signals) and
decides whose turn it is; a handful of threads take turns, each a run's for at most one segment. A run that hangs holds
one thread until its deadline. May be killed anywhere: those who gave the orders start another and give them again.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from spool import RunState, Spool, SpoolError, directory
from streaming import config
from streaming.errors import Unreachable
from streaming.processes import engine_socket
from streaming.processes.system import open_pid, seconds_since_boot
from streaming.upload.model import NO_WISHES, Outcome, Terms, Turn, Wishes
from streaming.upload.reachability import Address, Reached
from streaming.upload.run_delivery import RunDelivery

THREADS = 4
IDLE_S = 1.0  # how long an engine that has served a tracker waits for the next one
SCAN_S = 60.0  # how often it is looked for runs that were left behind
WATCH_S = 5.0  # and how often by `drain --watch`
HOPELESS_S = 300.0  # between two looks at a watched run that a person has to look at
HURRIED_INTERVAL_S = 1.0  # between two uploads of a run that is recorded, once it hurries
AWAITED_LOOK_S = 2.0  # how long a run waits at most, while a person waits for it
SUSPENDED_S = 60.0  # asleep for longer: connections are dead
DEATH_LOOK_S = 0.5  # a process that dies closes its connection a little before it is dead
HURRYING = (signal.SIGTERM, signal.SIGHUP)
_LINE_MAX_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_OVER = (Outcome.DELIVERED, Outcome.PARKED, Outcome.NOT_OURS, Outcome.ERROR)
_AT_A_STANDSTILL = (Outcome.WAITING, Outcome.BUSY)

log = logging.getLogger(__name__)


def main(order: dict[str, Any]) -> int:
    """The child's entry."""
    start_logging(int(order["log_level"]))
    engine = Engine(Path(order["spool_directory"]))
    if "listener" in order:
        listener = socket.socket(fileno=order["listener"])
        engine.listen(engine_socket.Claim(order["name"], order["lock"], listener))
        engine_socket.sweep()
    else:
        engine.meet(socket.socket(fileno=order["connection"]))
    engine.heed_signals()
    engine.serve()
    return 0


def start_logging(level: int) -> None:
    """Our own lines to stderr, which is a log file. Others' from warnings on: at DEBUG botocore tells its keys."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for package in ("streaming", "spool"):
        logging.getLogger(package).setLevel(level)


@dataclass(eq=False)
class Peer:
    """A connection: a tracker with its run, a `drain` with many, or somebody who asks."""

    connection: socket.socket
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Job:
    """A run in the engine. Only the main thread touches it, but for `delivery` while `is_running`.

    `is_adopted`: nobody asked for it. `is_watched`: `drain --watch` looks after it.
    """

    delivery: RunDelivery
    terms: Terms
    wishes: Wishes = NO_WISHES
    is_adopted: bool = False
    is_watched: bool = False
    interval_s: float = config.UPLOAD_INTERVAL_S
    linger_s: float | None = None  # after its end; None: only a drain wanted it
    trackers: set[Peer] = field(default_factory=set)
    drains: set[Peer] = field(default_factory=set)
    earlier_terms: Terms | None = None  # those of its tracker, while a drain's are tried
    due_at: float = 0.0
    ends_at: float = float("inf")  # given up then, unless somebody waits for it
    is_running: bool = False
    is_due_again: bool = False  # something happened while it ran
    is_awaited: bool = False  # its tracker has ended it and waits
    is_open: bool = True
    pidfd: int | None = None
    last: Turn | None = None

    @property
    def path(self) -> Path:
        return self.delivery.path

    @property
    def peers(self) -> set[Peer]:
        return self.trackers | self.drains


class Engine:
    """Serves until nothing is left to do, or until `ends_at`. `on_turn` hears of every turn (the foreground's report)."""

    def __init__(
        self,
        spool_directory: Path,
        *,
        ends_at: float = float("inf"),
        on_turn: Callable[[Path, Turn], None] = lambda _path, _turn: None,
    ) -> None:
        self._directory = spool_directory
        self._idle_s = IDLE_S
        self._has_served_tracker = False
        self._ends_at = ends_at
        self._on_turn = on_turn
        self._claim: engine_socket.Claim | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda: self._swallow(self._wake_read))
        self._peers: set[Peer] = set()
        self._jobs: dict[Path, Job] = {}
        self._due: list[tuple[float, int, Job]] = []  # a heap; entries of jobs that became due earlier are stale
        self._count = itertools.count()
        self._ready: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: deque[tuple[Job, Wishes, Turn]] = deque()
        self._threads: list[threading.Thread] = []
        self._running_count = 0
        self._addresses: dict[str, Address] = {}
        self._reached: dict[Terms, Reached] = {}
        self._reached_lock = threading.Lock()
        self._refused: dict[str, tuple[float, Turn]] = {}  # until when a token is not tried, and what was said of it
        self._scan_terms: dict[Terms, float] = {}  # when it is looked for what was left behind with them
        self._idle_since = self._started_at = time.monotonic()
        self._hurry_until = float("inf")
        self._is_stopping = False
        self._watch_terms: Terms | None = None
        self._delivered: set[Path] = set()  # of the directory's runs; not looked at again
        self._asleep_s = seconds_since_boot() - time.monotonic()

    # -- where orders and signals come from

    def listen(self, claim: engine_socket.Claim) -> None:
        """Serve whoever connects there."""
        self._claim = claim
        claim.listener.setblocking(False)
        self._selector.register(claim.listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._claim is not None
        with suppress(OSError):
            connection, _ = self._claim.listener.accept()
            if engine_socket.is_own_peer(connection):
                self.meet(connection)
            else:
                connection.close()

    def meet(self, connection: socket.socket) -> None:
        """Take orders from this connection."""
        connection.setblocking(False)
        peer = Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._on_ready(peer))
        self._tell(peer, "hello", pid=os.getpid())

    def heed_signals(self, numbers: Iterable[int] = HURRYING, *, hurry_s: float = config.HURRY_S) -> None:
        """These signals mean hurry; Ctrl-C is else not for us: it reaches the whole group. Main thread only."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in numbers:
            signal.signal(number, lambda _signal, _frame: self.hurry(hurry_s))

    def hurry(self, seconds: float = config.HURRY_S) -> None:
        """Come to an end: what is there is sent now, for so long at most."""
        self._hurry_until = min(self._hurry_until, time.monotonic() + seconds)

    # -- the loop

    def serve(self) -> None:
        """Until nothing is left to do, or the hurry is over. Ends all threads that are not amid a request."""
        was_hurried = False
        while not self._is_over():
            if self._is_hurried and not was_hurried:
                was_hurried = True
                self._everything_is_due()
            self._hand_out()
            for key, _ in self._selector.select(self._wait_s()):
                key.data()
            self._collect()
            self._look_at_clocks()
        self._leave()

    @property
    def _is_hurried(self) -> bool:
        return self._hurry_until != float("inf")

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now >= min(self._hurry_until, self._ends_at):
            return True
        if self._jobs or self._done or (self._watch_terms and not self._is_hurried):
            self._idle_since = now
            return False
        has_peers = bool(self._peers) and not self._is_hurried
        return not has_peers and now - self._idle_since >= (0.0 if self._is_hurried else self._idle_s)

    def _wait_s(self) -> float:
        """Until the next turn, look at the directory, or end."""
        at = [
            self._hurry_until,
            self._ends_at,
            self._due[0][0] if self._due and self._has_idle_thread() else float("inf"),
        ]
        at += [job.ends_at for job in self._jobs.values() if not job.is_running and not job.drains]
        at += self._scan_terms.values()
        at += [self._idle_since + self._idle_s] if not self._jobs else []
        return max(0.0, min(min(at) - time.monotonic(), SUSPENDED_S))

    def _has_idle_thread(self) -> bool:
        return self._running_count < THREADS

    def _hand_out(self) -> None:
        """Give due runs to idle threads, those first that became due first: a backlog waits behind the others' turns."""
        now = time.monotonic()
        self._give_up_overdue(now)
        while self._due and self._has_idle_thread() and self._due[0][0] <= now:
            due_at, _, job = heapq.heappop(self._due)
            if job.is_running or due_at != job.due_at or self._jobs.get(job.path) is not job:
                continue
            refused_until, refusal = self._refused.get(job.terms.token, (0.0, None))
            if refusal is not None and now < refused_until:
                self._judge(job, replace(refusal, wait_s=refused_until - now, is_open=job.is_open))
                continue
            self._start_turn(job)

    def _start_turn(self, job: Job) -> None:
        job.is_running = True
        self._running_count += 1
        if len(self._threads) < self._running_count:
            thread = threading.Thread(target=self._take_turns, name="delivery", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._ready.put(partial(self._take_turn, job, job.terms, job.wishes, job.is_adopted))

    def _take_turns(self) -> None:
        """In a thread of its own."""
        while (take_turn := self._ready.get()) is not None:
            take_turn()

    def _take_turn(self, job: Job, terms: Terms, wishes: Wishes, is_adopted: bool) -> None:
        turn = job.delivery.turn(terms, wishes, is_adopted=is_adopted, may_go_on=self._may_go_on)
        self._done.append((job, wishes, turn))
        self._wake()

    def _may_go_on(self) -> bool:
        return time.monotonic() < self._hurry_until

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wake_write, b"!")

    def _swallow(self, descriptor: int) -> None:
        with suppress(OSError):
            while descriptor >= 0 and len(os.read(descriptor, 4096)) == 4096:
                pass

    def _look_at_clocks(self) -> None:
        """After a suspension, nothing that was known of the network holds any more."""
        asleep_s = seconds_since_boot() - time.monotonic()
        slept_s, self._asleep_s = asleep_s - self._asleep_s, asleep_s
        if slept_s > SUSPENDED_S:
            log.warning("machine.slept: for about %.0f s; connections are dropped", slept_s)
            for reached in self._reached.values():
                reached.reset()
            self._everything_is_due()
        for terms, at in [*self._scan_terms.items()]:
            if time.monotonic() >= at:
                self._scan(terms)

    def _everything_is_due(self) -> None:
        for address in self._addresses.values():
            address.ask_now()
        self._refused.clear()
        for job in self._jobs.values():
            job.delivery.begin_anew()
            self._make_due(job)

    def _leave(self) -> None:
        if self._claim is not None:
            self._claim.retire()
        for peer in [*self._peers]:
            self._dismiss(peer)
        for _ in self._threads:
            self._ready.put(None)
        self._selector.close()
        os.close(self._wake_read)

    # -- a run's turns

    def _make_due(self, job: Job, at: float = 0.0) -> None:
        if job.is_running:
            job.is_due_again = True
            return
        job.due_at = max(at, time.monotonic())
        heapq.heappush(self._due, (job.due_at, next(self._count), job))

    def _collect(self) -> None:
        while self._done:
            job, wishes, turn = self._done.popleft()
            job.is_running = False
            self._running_count -= 1
            if job.wishes is wishes and turn.outcome is not Outcome.BUSY:
                job.wishes = NO_WISHES
            if self._jobs.get(job.path) is job:
                self._judge(job, turn)

    def _judge(self, job: Job, turn: Turn) -> None:
        """What follows from a turn: for those who wait for the run, and for its next one."""
        last, job.last, job.is_open = job.last, turn, turn.is_open
        if job.drains and last is not None and (turn.sent_rows, turn.sent_bytes) != (last.sent_rows, last.sent_bytes):
            self._tell_all(job.drains, "progress", job, rows=turn.sent_rows, bytes=turn.sent_bytes)
        if turn.problem is not None:
            self._tell_all(
                job.peers, "problem", job, **_problem(turn), is_unreachable=isinstance(turn.problem, Unreachable)
            )
        self._on_turn(job.path, turn)
        if not turn.is_open or not self._is_held(job):
            job.ends_at = min(job.ends_at, time.monotonic() + (job.linger_s or 0.0))
        if turn.outcome is Outcome.TOKEN_REFUSED:
            self._refused[job.terms.token] = (time.monotonic() + turn.wait_s, turn)
        was_overtaken, job.is_due_again = job.is_due_again, False
        if turn.outcome in (Outcome.TOKEN_REFUSED, Outcome.ERROR) and job.earlier_terms is not None:
            self._release_drains(job, turn)
            self._make_due(job)
        elif was_overtaken and turn.outcome not in _OVER:  # by what happened meanwhile, a tracker's death perhaps
            self._make_due(job)
        elif self._is_final(job, turn):
            self._forget(job, turn)
        else:
            if turn.outcome is Outcome.UPLOADED:
                self._release_drains(job, turn)
            self._make_due(job, time.monotonic() + self._pause_s(job, turn))

    def _is_final(self, job: Job, turn: Turn) -> bool:
        """Whether nothing is to be done any more, or nothing that can help."""
        if job.is_watched and not job.peers:
            return turn.outcome is Outcome.DELIVERED
        if turn.outcome in _OVER or (job.is_adopted and turn.outcome is not Outcome.GOES_ON):
            return True
        is_recorded = turn.is_open and self._is_held(job) and not self._is_stopping
        return turn.outcome in (Outcome.TOKEN_REFUSED, Outcome.UPLOADED) and not is_recorded

    def _is_held(self, job: Job) -> bool:
        """Whether a living tracker is behind it."""
        return bool(job.trackers) or job.pidfd is not None

    def _pause_s(self, job: Job, turn: Turn) -> float:
        if turn.outcome is Outcome.GOES_ON:
            return 0.0
        if turn.outcome is Outcome.UPLOADED:
            return HURRIED_INTERVAL_S if self._is_hurried else job.interval_s
        if turn.outcome in _AT_A_STANDSTILL and (job.drains or job.is_awaited or self._is_hurried):
            return min(turn.wait_s, AWAITED_LOOK_S)
        return turn.wait_s if turn.outcome not in _OVER else HOPELESS_S

    def _give_up_overdue(self, now: float) -> None:
        """Those whose time is over, and that get nowhere."""
        for job in [*self._jobs.values()]:
            gets_nowhere = job.last is not None and job.last.outcome in _AT_A_STANDSTILL and not job.is_running
            if gets_nowhere and now >= job.ends_at and not job.drains and not job.is_watched:
                log.warning("uploader.gave_up: %s: what is left stays in the spool", job.path.stem)
                self._forget(job, job.last or Turn(Outcome.WAITING))

    def _forget(self, job: Job, turn: Turn) -> None:
        """The run is no longer ours to deliver."""
        if turn.outcome is Outcome.DELIVERED and job.path.parent == self._directory:
            self._delivered.add(job.path)
        self._tell_all(job.peers, "done", job, **_ending(turn))
        del self._jobs[job.path]
        self._close_pidfd(job)
        terms = {other.terms for other in self._jobs.values()}
        for unused in [*self._reached.keys() - terms]:
            if unused not in self._scan_terms:
                self._reached.pop(unused).reset()
        self._idle_since = time.monotonic()

    def _release_drains(self, job: Job, turn: Turn) -> None:
        """Those who asked for everything now have it, or cannot have it; the run's tracker goes on with its own terms."""
        self._tell_all(job.drains, "done", job, **_ending(turn))
        job.drains.clear()
        if job.earlier_terms is not None:
            job.terms, job.earlier_terms = job.earlier_terms, None

    def _reach(self, terms: Terms) -> Reached:
        """The clients for these terms, shared by all threads; an address's state by all clients."""
        with self._reached_lock:
            if terms not in self._reached:
                self._reached[terms] = Reached(
                    terms.token,
                    api_url=terms.api_url,
                    s3_endpoint_url=terms.s3_endpoint_url,
                    address=lambda url: self._addresses.setdefault(url, Address()),
                )
            return self._reached[terms]

    # -- orders and events

    def _on_ready(self, peer: Peer) -> None:
        self._flush(peer)
        try:
            piece = peer.connection.recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        peer.unread += piece
        if not piece or len(peer.unread) > _LINE_MAX_BYTES:
            self._dismiss(peer)
            return
        *lines, rest = peer.unread.split(b"\n")
        peer.unread = bytearray(rest)
        for line in lines:
            self._obey(peer, bytes(line))

    def _obey(self, peer: Peer, line: bytes) -> None:
        try:
            order = json.loads(line)
            {
                "deliver": self._on_deliver,
                "drain": self._on_drain,
                "leave": self._on_leave,
                "status": self._on_status,
                "stop": self._on_stop,
            }[order["do"]](peer, order)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("uploader.order_unknown: %r", error)
            self._dismiss(peer)

    def _on_deliver(self, peer: Peer, order: dict[str, Any]) -> None:
        """A tracker's run, from now to its end. The connection, and the tracker's pid, tell when it is gone."""
        terms = _terms(order)
        job = self._job(Path(order["path"]), terms)
        if job.is_adopted or job.is_watched:
            job.is_adopted = job.is_watched = False
            job.terms = terms
        job.interval_s, job.linger_s = float(order["interval_s"]), float(order["linger_s"])
        job.ends_at = float("inf")
        job.trackers.add(peer)
        self._has_served_tracker, self._idle_s = True, IDLE_S
        self._watch_pid(job, int(order["tracker_pid"]))
        if order["is_awaited"]:
            job.is_awaited = True
            self._hasten(job)
        else:
            self._make_due(job)
        self._scan_terms.setdefault(terms, time.monotonic() + min(1.0, job.interval_s))

    def _on_drain(self, peer: Peer, order: dict[str, Any]) -> None:
        """Somebody wants everything of a run, now, and waits for it."""
        terms = _terms(order)
        job = self._job(Path(order["path"]), terms)
        if terms != job.terms:
            job.earlier_terms, job.terms = job.earlier_terms or job.terms, terms
        job.is_adopted = False
        job.wishes = Wishes(**{name: bool(order[name]) for name in vars(NO_WISHES)})
        job.drains.add(peer)
        self._refused.pop(terms.token, None)
        self._hasten(job)

    def _on_leave(self, peer: Peer, order: dict[str, Any]) -> None:
        """A drain's patience with this run is over."""
        job = self._jobs.get(Path(order["path"]))
        if job is not None:
            self._let_go(job, peer)

    def _on_stop(self, _peer: Peer, _order: dict[str, Any]) -> None:
        """A person wants this process to end: what is there is sent, and trackers are told not to start another."""
        log.info("uploader.asked_to_stop")
        self._is_stopping = True
        for peer in set().union(*(job.trackers for job in self._jobs.values())):
            self._tell(peer, "stopping")
        self.hurry()

    def _on_status(self, peer: Peer, _order: dict[str, Any]) -> None:
        now, epoch = time.monotonic(), time.time()
        runs = [
            {
                "path": str(job.path),
                "is_running": job.is_running,
                "next_at": None if job.is_running else epoch + job.due_at - now,
                "problem": _problem(job.last)["text"] if job.last and job.last.problem else None,
            }
            for job in self._jobs.values()
        ]
        self._tell(peer, "status", pid=os.getpid(), since=epoch + self._started_at - now, runs=runs)

    def _job(self, path: Path, terms: Terms, **options: Any) -> Job:
        if path not in self._jobs:
            self._jobs[path] = Job(RunDelivery(path, self._reach), terms, **options)
        return self._jobs[path]

    def _hasten(self, job: Job) -> None:
        """A person waits for it: no pause of before holds it up."""
        job.delivery.begin_anew()
        for address in self._addresses.values():
            address.ask_now()
        self._make_due(job)

    def _watch_pid(self, job: Job, pid: int) -> None:
        self._close_pidfd(job)
        job.pidfd = open_pid(pid)
        if job.pidfd is not None:
            self._selector.register(job.pidfd, selectors.EVENT_READ, lambda: self._on_death(job))

    def _on_death(self, job: Job) -> None:
        """Its tracker is gone: the turn finds out what that means."""
        self._close_pidfd(job)
        self._hasten(job)

    def _close_pidfd(self, job: Job) -> None:
        if job.pidfd is not None:
            self._selector.unregister(job.pidfd)
            os.close(job.pidfd)
            job.pidfd = None

    def _dismiss(self, peer: Peer) -> None:
        """The connection is over. A run whose tracker closed it is looked at; one that only a drain wanted is left."""
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._selector.unregister(peer.connection)
        peer.connection.close()
        for job in [job for job in self._jobs.values() if peer in job.peers]:
            self._let_go(job, peer)
        if not self._has_served_tracker:
            self._idle_s = 0.0
        self._idle_since = time.monotonic()

    def _let_go(self, job: Job, peer: Peer) -> None:
        was_tracker = peer in job.trackers
        job.trackers.discard(peer)
        job.drains.discard(peer)
        if was_tracker and not job.trackers:
            job.is_awaited = False
            self._make_due(job, time.monotonic() + (DEATH_LOOK_S if job.pidfd is None else 0.0))
        if not job.drains and job.earlier_terms is not None:
            job.terms, job.earlier_terms = job.earlier_terms, None
        if not job.peers and job.linger_s is None and not (job.is_adopted or job.is_watched):
            self._forget(job, job.last or Turn(Outcome.WAITING))

    def _tell_all(self, peers: set[Peer], event: str, job: Job, **content: Any) -> None:
        for peer in [*peers]:
            self._tell(peer, event, path=str(job.path), **content)

    def _tell(self, peer: Peer, event: str, **content: Any) -> None:
        """Best effort: who does not listen is not waited for, and dismissed once too much waits for it."""
        if len(peer.unsent) > _LINE_MAX_BYTES:
            return
        peer.unsent += json.dumps({"event": event, **content}).encode() + b"\n"
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        try:
            while peer.unsent:
                sent = peer.connection.send(peer.unsent)
                del peer.unsent[:sent]
        except OSError:  # full, or gone: that is seen when it is read
            pass
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        self._selector.modify(peer.connection, events, lambda: self._on_ready(peer))

    # -- what was left behind

    def watch(self, terms: Terms) -> None:
        """Look after every run of the directory, whoever records it, until told to end."""
        self._watch_terms = terms
        self._scan_terms[terms] = 0.0

    def _scan(self, terms: Terms) -> None:
        """Runs of the directory that nobody delivers, as more runs in the queue. Those that are not ours drop out."""
        is_watched = terms == self._watch_terms
        paths = directory.spool_paths(self._directory)
        self._delivered.intersection_update(paths)
        for path in paths:
            if path not in self._jobs and path not in self._delivered:
                self._make_due(self._job(path, terms, is_adopted=not is_watched, is_watched=is_watched))
            elif is_watched and path in self._jobs:
                self._look_at_watched(self._jobs[path])
        is_in_use = any(job.terms == terms and not job.is_adopted for job in self._jobs.values())
        if is_watched or is_in_use:
            self._scan_terms[terms] = time.monotonic() + (WATCH_S if is_watched else SCAN_S)
        else:
            del self._scan_terms[terms]

    def _look_at_watched(self, job: Job) -> None:
        """One that was live when it was uploaded, and has ended since, does not wait for its turn."""
        if job.is_watched and job.last is not None and job.last.outcome is Outcome.UPLOADED and not job.is_running:
            with suppress(SpoolError), closing(Spool(job.path)) as spool:
                if spool.run().state is not RunState.OPEN:
                    self._make_due(job)


def _terms(order: dict[str, Any]) -> Terms:
    return Terms(order["token"], order["api_url"], order["s3_endpoint_url"])


def _problem(turn: Turn) -> dict[str, Any]:
    problem = turn.problem
    return {"text": str(problem) if problem else None, "cause": getattr(problem, "cause", "") or "unreadable"}


def _ending(turn: Turn) -> dict[str, Any]:
    told = _problem(turn) if turn.problem else {"text": None, "cause": None}
    sent = {"rows": turn.sent_rows, "bytes": turn.sent_bytes}
    return {"outcome": turn.outcome.value, "answer": turn.answer, **told, **sent}
