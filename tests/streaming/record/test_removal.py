"""What a later start removes from the spool directory: delivered runs past their time, and nothing else."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Batch, NewRun, Spool, directory, system
from tests.support.clients import Clients
from tests.support.turns import adopt_all

DAY_S = 86_400.0
TOKEN = "removal-test-token"
NOBODY = "http://127.0.0.1:1"


def _run(spool_dir: Path, *, days_ago: float, delivered: bool, lives: bool = False) -> Path:
    at = time.time() - days_ago * DAY_S
    tracker = system.identify(os.getpid())
    tracker = tracker if lives else replace(tracker, boot_id="another")
    new = NewRun(tracker=tracker, started_at=at, token=TOKEN, api_url=NOBODY)
    with closing(Spool.create(spool_dir, new, clock=lambda: at)) as spool:
        spool.append([Batch(b"timestamp,cpu\n", b"1,0.5\n")])
        spool.end(exit_code=0, run_status="finished", ended_at=at)
        if delivered:
            spool.finish({})
        return spool.path


def _adopt_all(spool_dir: Path) -> None:
    clients = Clients.connect(TOKEN, api_url=NOBODY, s3_endpoint_url=NOBODY)
    adopt_all(spool_dir, TOKEN, clients, api_url=NOBODY)


def test_delivered_run_past_its_time_is_removed_whole(tmp_path: Path) -> None:
    old = _run(tmp_path / "spools", days_ago=8, delivered=True)
    _adopt_all(old.parent)
    assert [path.name for path in old.parent.iterdir()] == [directory.MARK_NAME]


def test_recently_delivered_run_is_kept(tmp_path: Path) -> None:
    recent = _run(tmp_path / "spools", days_ago=6, delivered=True)
    _adopt_all(recent.parent)
    assert recent.exists()


def test_delivered_run_is_kept_while_its_program_may_ask_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_STREAM_KEEP_DAYS", "0")
    lives = _run(tmp_path / "spools", days_ago=8, delivered=True, lives=True)
    gone = _run(tmp_path / "spools", days_ago=8, delivered=True)
    _adopt_all(lives.parent)
    assert (lives.exists(), gone.exists()) == (True, False)


def test_undelivered_run_is_kept_however_old(tmp_path: Path) -> None:
    waiting = _run(tmp_path / "spools", days_ago=400, delivered=False)
    _adopt_all(waiting.parent)
    with closing(Spool(waiting)) as spool:
        assert spool.run().finished_at is None


def test_delivered_run_with_rows_set_aside_is_kept_however_old(tmp_path: Path) -> None:
    path = _run(tmp_path, days_ago=400, delivered=False)
    with closing(Spool(path, clock=lambda: time.time() - 400 * DAY_S)) as spool:
        (segment,) = spool.seal_pending()
        spool.reject(segment, "refused")
        spool.finish({})
    _adopt_all(tmp_path)
    assert path.exists()


def test_time_to_keep_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_STREAM_KEEP_DAYS", "30")
    kept = _run(tmp_path / "spools", days_ago=20, delivered=True)
    _adopt_all(kept.parent)
    assert kept.exists()
