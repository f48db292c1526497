"""The engine: one process that delivers all the runs of a spool directory, for every tracker and `drain` that asks.

Rows never pass through it: it reads spools. The main thread listens (to orders, to trackers that die, to signals) and
decides whose turn it is; a handful of threads take turns, each a run's for at most one segment. A run that hangs holds
one thread until its deadline. May be killed anywhere: those who gave the orders start another and give them again.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from spool import RunState, Spool, SpoolError, directory
from streaming import config
from streaming.errors import Defect, Unreachable
from streaming.processes import engine_socket
from streaming.processes.system import open_pid, seconds_since_boot
from streaming.upload.job import OVER, Job, ending, problem, progress
from streaming.upload.model import NO_WISHES, Outcome, Terms, Turn, Wishes
from streaming.upload.peers import Peer, Peers
from streaming.upload.reachability import FRESH_S, AllReached
from streaming.upload.run_delivery import RunDelivery
from streaming.upload.threads import Threads

IDLE_S = 1.0  # how long an engine that has served a tracker waits for the next one
SCAN_S = 60.0  # how often it is looked for runs that were left behind
WATCH_S = 5.0  # and how often by `drain --watch`
SUSPENDED_S = 60.0  # asleep for longer: connections are dead
UNANSWERED_LOOK_S = 0.2
DEATH_LOOK_S = 0.5  # a process that dies closes its connection a little before it is dead
HURRYING = (signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


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
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda: self._swallow())
        self._peers = Peers(self._selector, on_order=self._obey, on_gone=self._on_gone)
        self._jobs: dict[Path, Job] = {}
        self._due: list[tuple[float, int, Job]] = []  # a heap; entries of jobs that became due earlier are stale
        self._count = itertools.count()
        self._threads = Threads(self._wake)
        self._reached = AllReached()
        self._refused: dict[str, tuple[float, Turn]] = {}  # until when a token is not tried, and what was said of it
        self._scan_terms: dict[Terms, float] = {}  # when it is looked for what was left behind with them
        self._idle_since = self._started_at = time.monotonic()
        self._hurry_until = float("inf")
        self._is_stopping = False
        self._watch_terms: Terms | None = None
        self._delivered: set[Path] = set()  # of the directory's runs; not looked at again
        self._asleep_s = seconds_since_boot() - time.monotonic()
        self._code = engine_socket.code_on_disk()

    # -- where orders and signals come from

    def listen(self, claim: engine_socket.Claim) -> None:
        """Serve whoever connects there."""
        self._peers.listen(claim)

    def meet(self, connection: socket.socket) -> None:
        """Take orders from this connection."""
        self._peers.meet(connection)

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
        if self._jobs or (self._watch_terms and not self._is_hurried):
            self._idle_since = now
            return False
        has_peers = bool(self._peers) and not self._is_hurried
        return not has_peers and now - self._idle_since >= (0.0 if self._is_hurried else self._idle_s)

    def _wait_s(self) -> float:
        """Until the next turn, look at the directory, or end."""
        at = [self._hurry_until, self._ends_at]
        at += [self._due[0][0]] if self._due and self._threads.have_room else []
        at += [job.ends_at for job in self._jobs.values() if job.may_be_given_up]
        at += [time.monotonic() + UNANSWERED_LOOK_S] if any(job.is_awaited for job in self._jobs.values()) else []
        at += self._scan_terms.values()
        at += [self._idle_since + self._idle_s] if not self._jobs else []
        return max(0.0, min(min(at) - time.monotonic(), SUSPENDED_S))

    def _hand_out(self) -> None:
        """Give due runs to idle threads, those first that became due first: a backlog waits behind the others' turns."""
        now = time.monotonic()
        self._give_up_overdue(now)
        while self._due and self._threads.have_room and self._due[0][0] <= now:
            due_at, _, job = heapq.heappop(self._due)
            if job.is_running or due_at != job.due_at or self._jobs.get(job.path) is not job:
                continue
            refused_until, refusal = self._refused.get(job.terms.token, (0.0, None))
            if refusal is not None and now < refused_until:
                self._judge(job, replace(refusal, wait_s=refused_until - now, is_open=job.is_open))
                continue
            self._threads.start(job, may_go_on=self._may_go_on)

    def _may_go_on(self) -> bool:
        return time.monotonic() < self._hurry_until

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wake_write, b"!")

    def _swallow(self) -> None:
        with suppress(OSError):
            os.read(self._wake_read, 1 << 16)

    def _look_at_clocks(self) -> None:
        """After a suspension, nothing that was known of the network holds any more."""
        asleep_s = seconds_since_boot() - time.monotonic()
        slept_s, self._asleep_s = asleep_s - self._asleep_s, asleep_s
        if slept_s > SUSPENDED_S:
            log.warning("machine.slept: for about %.0f s; connections are dropped", slept_s)
            self._reached.reset()
            self._everything_is_due()
        for terms, at in [*self._scan_terms.items()]:
            if time.monotonic() >= at:
                self._scan(terms)
        for job in self._jobs.values():
            if job.awaited_at is not None:
                self._tell_whether_answered(job, job.awaited_at)

    def _tell_whether_answered(self, job: Job, awaited_at: float) -> None:
        """Who waits for a run waits for the network no longer than it makes sense; the attempt itself is patient, and goes
        on."""
        if unanswered := self._reached.unanswered(job.terms):
            self._tell_all(job.trackers, "problem", job, text=unanswered, cause="timeout", is_unreachable=True)
        elif self._reached.answers_since(job.terms, awaited_at - FRESH_S):
            self._tell_all(job.trackers, "answering", job)

    def _everything_is_due(self) -> None:
        self._reached.ask_now()
        self._refused.clear()
        for job in self._jobs.values():
            job.delivery.begin_anew()
            self._make_due(job)

    def _leave(self) -> None:
        self._peers.close()
        self._threads.close()
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
        for job, wishes, turn, warnings in self._threads.finished():
            for text in warnings:
                self._tell_all(job.drains, "warning", job, text=text)
            if job.wishes is wishes and turn.outcome is not Outcome.BUSY:
                job.wishes = NO_WISHES
            if self._jobs.get(job.path) is job:
                self._judge(job, turn)
            else:
                self._forget_clients_of(job)

    def _judge(self, job: Job, turn: Turn) -> None:
        """What follows from a turn: for those who wait for the run, and for its next one."""
        last, job.last, job.is_open = job.last, turn, turn.is_open
        if job.drains and last is not None and (turn.sent_rows, turn.sent_bytes) != (last.sent_rows, last.sent_bytes):
            self._tell_all(job.drains, "progress", job, **progress(turn))
        if turn.problem is not None:
            self._tell_all(
                job.peers, "problem", job, **problem(turn), is_unreachable=isinstance(turn.problem, Unreachable)
            )
        self._on_turn(job.path, turn)
        if isinstance(turn.problem, Defect):
            self._leave_if_outdated()
        if not turn.is_open or not job.is_held:
            job.ends_at = min(job.ends_at, time.monotonic() + (job.linger_s or 0.0))
        if turn.outcome is Outcome.TOKEN_REFUSED:
            now = time.monotonic()
            self._refused = {token: known for token, known in self._refused.items() if now < known[0]}
            self._refused[job.terms.token] = (now + turn.wait_s, turn)
        was_overtaken, job.is_due_again = job.is_due_again, False
        if turn.outcome in (Outcome.TOKEN_REFUSED, Outcome.ERROR) and job.earlier_terms is not None:
            self._release_drains(job, turn)
            self._make_due(job)
        elif was_overtaken and turn.outcome not in OVER:  # by what happened meanwhile, a tracker's death perhaps
            self._make_due(job)
        elif job.is_over_after(turn, is_stopping=self._is_stopping):
            self._forget(job, turn)
        else:
            if turn.outcome is Outcome.UPLOADED:
                self._release_drains(job, turn)
            self._make_due(job, time.monotonic() + job.pause_s(turn, is_hurried=self._is_hurried))

    def _leave_if_outdated(self) -> None:
        """After an upgrade, what we have not imported yet is not ours any more: who needs us finds another."""
        with suppress(OSError):
            if engine_socket.code_on_disk() == self._code:
                return
        log.warning("uploader.outdated: its code was replaced while it ran; it makes room for the new version")
        self.hurry(0.0)

    def _give_up_overdue(self, now: float) -> None:
        for job in [job for job in self._jobs.values() if job.may_be_given_up and now >= job.ends_at]:
            log.warning("uploader.gave_up: %s: what is left stays in the spool", job.path.stem)
            self._forget(job, job.last or Turn(Outcome.WAITING))

    def _forget(self, job: Job, turn: Turn) -> None:
        """The run is no longer ours to deliver."""
        if turn.outcome is Outcome.DELIVERED and job.path.parent == self._directory:
            self._delivered.add(job.path)
        self._tell_all(job.peers, "done", job, **ending(turn))
        del self._jobs[job.path]
        self._due = [entry for entry in self._due if entry[2] is not job]
        heapq.heapify(self._due)
        self._close_pidfd(job)
        if not job.is_running:
            self._forget_clients_of(job)
        self._idle_since = time.monotonic()

    def _forget_clients_of(self, job: Job) -> None:
        job.delivery.forget()
        self._reached.forget_all_but({other.terms for other in self._jobs.values()} | self._scan_terms.keys())

    def _release_drains(self, job: Job, turn: Turn) -> None:
        """Those who asked for everything now have it, or cannot have it; the run's tracker goes on with its own terms."""
        self._tell_all(job.drains, "done", job, **ending(turn))
        job.drains.clear()
        if job.earlier_terms is not None:
            job.terms, job.earlier_terms = job.earlier_terms, None

    # -- orders and events

    def _obey(self, peer: Peer, order: dict[str, Any]) -> None:
        obey = {
            "deliver": self._on_deliver,
            "drain": self._on_drain,
            "leave": self._on_leave,
            "status": self._on_status,
            "stop": self._on_stop,
        }
        obey[order["do"]](peer, order)

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
            job.awaited_at = time.monotonic()
            self._reached.drop_stale(terms)
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
            self._peers.tell(peer, "stopping")
        self.hurry()

    def _on_status(self, peer: Peer, _order: dict[str, Any]) -> None:
        now, epoch = time.monotonic(), time.time()
        runs = [
            {
                "path": str(job.path),
                "is_running": job.is_running,
                "next_at": None if job.is_running else epoch + job.due_at - now,
                "problem": problem(job.last)["text"] if job.last else None,
            }
            for job in self._jobs.values()
        ]
        self._peers.tell(peer, "status", pid=os.getpid(), since=epoch + self._started_at - now, runs=runs)

    def _job(self, path: Path, terms: Terms, **options: Any) -> Job:
        if path not in self._jobs:
            self._jobs[path] = Job(RunDelivery(path, self._reached.by), terms, **options)
        return self._jobs[path]

    def _hasten(self, job: Job) -> None:
        """A person waits for it: no pause of before holds it up."""
        job.delivery.begin_anew()
        self._reached.ask_now()
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

    def _on_gone(self, peer: Peer) -> None:
        """A run whose tracker closed the connection is looked at; one that only a drain wanted is left."""
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
            job.awaited_at = None
        if was_tracker and not job.trackers and job.is_open:
            self._make_due(job, time.monotonic() + (DEATH_LOOK_S if job.pidfd is None else 0.0))
        if not job.drains and job.earlier_terms is not None:
            job.terms, job.earlier_terms = job.earlier_terms, None
        if not job.peers and job.linger_s is None and not (job.is_adopted or job.is_watched):
            self._forget(job, job.last or Turn(Outcome.WAITING))

    def _tell_all(self, peers: set[Peer], event: str, job: Job, **content: Any) -> None:
        for peer in [*peers]:
            self._peers.tell(peer, event, path=str(job.path), **content)

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
