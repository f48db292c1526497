"""Runs whose tracker died: ending them, and delivering what they left behind."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spool import Run, RunState, SegmentState, Spool, directory, ownership, queries, system
from spool.errors import RunEnded
from spool.recovery.recover import Recovered, surviving_damage
from streaming import config
from streaming.collect.csv_lines import BYTE_ORDER_MARK
from streaming.collect.csv_tail import CsvFeeder
from streaming.errors import Transient, Unauthorized
from streaming.upload import delivery
from streaming.upload.life import tracker_is_gone

ADOPTION_TRIES = 3

HEADER_MAX_BYTES = 1 << 20

if TYPE_CHECKING:
    from streaming.clients.connect import Clients

log = logging.getLogger(__name__)


def end_dead_run(spool: Spool) -> None:
    """Take over what the dead tracker's CSV still holds, and end the run as failed at the time of its last row.

    Raises SpoolError if the rows cannot be taken over now: then the run stays open, and is ended by the next attempt.
    """
    run = spool.run()
    if run.state is not RunState.OPEN:
        return
    _take_csv_tail(spool, run)
    ended_at = queries.last_append_at(spool.connection) or run.started_at
    log.warning("run.tracker_died: run %s is ended as failed", spool.path.stem)
    spool.end(exit_code=None, run_status="failed", ended_at=ended_at)


def _take_csv_tail(spool: Spool, run: Run) -> None:
    """Only of a run that proves to be this user's own: a spool that was handed over must not make us read and send what
    it names."""
    if run.csv_path is None:
        return
    if not spool.is_own():
        log.warning(
            "csv.not_ours: run %s was not recorded by you with the key that is here; its CSV file is left alone",
            spool.path.stem,
        )
        return
    if not _is_the_runs_csv(spool, run):
        log.warning(
            "csv.not_recognised: %s is not what run %s was reading; it is left alone", run.csv_path, spool.path.stem
        )
        return
    with suppress(RunEnded):
        CsvFeeder(spool, Path(run.csv_path)).take()


def _is_the_runs_csv(spool: Spool, run: Run) -> bool:
    """Whether the file at the CSV's path is still the one that was read: a file of ours that begins with its header.

    A run that has seen no row yet knows no header: the path is then trusted on the host that it is of.
    """
    headers, csv_path = queries.headers(spool.connection), Path(run.csv_path or "")
    try:
        status = csv_path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if not headers:
            return run.tracker.host == system.host_identity()
        with open(csv_path, "rb") as file:
            return file.readline(HEADER_MAX_BYTES).removeprefix(BYTE_ORDER_MARK) in headers
    except OSError:
        return False


def tell_recovered(recovered: Recovered) -> None:
    """Say once, loudly, what became of a damaged spool."""
    log.error("spool.recovered: %s", recovered)


class Adoption:
    """Delivers what runs with the same token left behind, in idle moments. Best effort; a bad run stops no other."""

    def __init__(self, spool_directory: Path, token: str, clients: Clients, *, api_url: str) -> None:
        self._directory = spool_directory
        self._token = token
        self._clients = clients
        self._api_url = api_url
        self._waiting: list[Path] | None = None
        self._outages: Counter[Path] = Counter()

    def go_on(self, may_go_on: Callable[[], bool]) -> None:
        """Deliver until nothing is left, or `may_go_on` says no; the next call continues.

        An outage ends the call (the other runs would meet it too, and the caller's own run comes first); the run that
        met it is tried again later, ADOPTION_TRIES times in all. Never raises: nothing here may harm the own run.
        """
        if self._waiting is None:
            self._waiting = directory.spool_paths(self._directory)[::-1]  # the oldest is popped first
        while self._waiting and may_go_on():
            path = self._waiting.pop()
            try:
                if self._adopt(path, may_go_on) is delivery.Progress.INTERRUPTED:
                    self._waiting.append(path)
            except (Transient, Unauthorized) as outage:
                log.info("run.not_adopted_now: %s: %s", path.stem, outage)
                self._postpone(path)
                return
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a neighbour's file, the own run goes on
                log.warning("run.not_adopted: %s: %r", path.stem, error)

    def _postpone(self, path: Path) -> None:
        self._outages[path] += 1
        if self._waiting is not None and self._outages[path] < ADOPTION_TRIES:
            self._waiting.insert(0, path)

    def _adopt(self, path: Path, may_go_on: Callable[[], bool]) -> delivery.Progress | None:
        if ownership.is_owned(path):
            return None
        with ownership.own(path):
            return surviving_damage(path, partial(self._deliver, may_go_on=may_go_on), report=tell_recovered)

    def _deliver(self, spool: Spool, may_go_on: Callable[[], bool]) -> delivery.Progress | None:
        run = spool.run()
        if run.state is RunState.FINISHED:
            _remove_if_old(spool)
            return None
        if run.parked or run.api_url not in ("", self._api_url) or not spool.is_meant_for(self._token):
            return None
        if run.state is RunState.OPEN and not tracker_is_gone(spool):
            return None
        log.info("run.adopted: %s", spool.path.stem)
        end_dead_run(spool)
        return delivery.deliver(spool, self._clients.service, self._clients.store, may_go_on=may_go_on)


def _remove_if_old(spool: Spool) -> None:
    """Delivered runs stay for a while, to be looked at, and not for ever. The caller owns the run.

    Rows that were set aside are nowhere else: a run that holds some is never removed unasked. Nor one whose tracker
    still runs: it may ask what became of the run.
    """
    run = spool.run()
    if spool.segments(SegmentState.REJECTED) or system.lives_here(run.tracker):
        return
    if run.finished_at is not None and time.time() - run.finished_at > config.keep_s():
        log.info("run.removed: %s was delivered long ago", spool.path.stem)
        directory.remove(spool.path, step=spool.step)
