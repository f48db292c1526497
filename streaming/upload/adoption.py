"""Runs whose tracker died: how they are ended, and when what is left of delivered ones may go."""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from spool import Run, RunState, SegmentState, Spool, directory, queries, system
from spool.errors import RunEnded
from spool.recovery.recover import Recovered
from streaming import config
from streaming.collect.csv_lines import BYTE_ORDER_MARK
from streaming.collect.csv_tail import CsvFeeder

HEADER_MAX_BYTES = 1 << 20

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

    A run that has seen no row yet knows no header: the path is then trusted where its tracker wrote the spool. A copy,
    whose rows somebody took out, may be handed over when another file has come to be there.
    """
    headers, csv_path = queries.headers(spool.connection), Path(run.csv_path or "")
    try:
        status = csv_path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if not headers:
            is_original = directory.is_original(spool.path, run.tracker.file_mark)
            return is_original and run.tracker.host == system.host_identity()
        with open(csv_path, "rb") as file:
            return file.readline(HEADER_MAX_BYTES).removeprefix(BYTE_ORDER_MARK) in headers
    except OSError:
        return False


def tell_recovered(recovered: Recovered) -> None:
    """Say once, loudly, what became of a damaged spool."""
    log.error("spool.recovered: %s", recovered)


def remove_if_old(spool: Spool) -> None:
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
