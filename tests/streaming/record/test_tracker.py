"""Tracking: a row per sample, rows that wait for room, an end that is recorded; and the sampler's columns."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, RunState, Spool, queries
from spool.errors import SpoolDamaged, SpoolFull
from streaming.collect.sampler import Sampler
from streaming.record import tracker
from streaming.record.plan import Delivery
from streaming.record.recorder import Recorder
from streaming.record.tracker import Tracking
from tests.support import oracle, plays, spools

OFFLINE = Delivery(None, "https://example.com", None, 60, 300)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool.create(tmp_path / "spools", plays.new_run())) as made:
        yield made


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


class FullFor(Recorder):
    """A recorder whose disk is full for some appends."""

    def __init__(self, spool: Spool, refusals: int) -> None:
        super().__init__(spool, OFFLINE)
        self.refusals = refusals

    def append(self, batches: list[Batch]) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise SpoolFull("no room left")
        super().append(batches)


def test_each_tick_is_a_row_until_the_process_is_gone(spool: Spool, child: "subprocess.Popen[bytes]") -> None:
    tracking = Tracking(Recorder(spool, OFFLINE), child.pid, interval_s=0.1)
    assert [tracking.tick() for _ in range(3)] == [True] * 3
    child.kill()
    child.wait()
    assert not tracking.tick()
    tracking.end(exit_code=137, run_status="failed")
    assert (tracking.row_count, queries.counts(spool.connection).recorded) == (3, 3)
    assert (spool.run().state, spool.run().exit_code) == (RunState.ENDED, 137)
    ((header, rows), *_) = queries.exported(spool.connection)
    assert header.startswith(b'"timestamp","system_')
    assert b'"process_' in header
    assert header.count(b",") == rows.count(b",")


def test_rows_without_room_wait_in_memory_and_are_told_once(
    spool: Spool, child: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    tracking = Tracking(FullFor(spool, 3), child.pid, interval_s=0.1)
    for _ in range(5):
        tracking.tick()
    assert queries.counts(spool.connection).recorded == 5
    assert caplog.text.count("spool.unavailable") == 1
    times = [float(row.split(b",")[0]) for row in oracle.split_rows(spools.exported(spool))]
    assert times == sorted(times)


def test_last_rows_get_a_little_time_to_find_room(spool: Spool, child: "subprocess.Popen[bytes]") -> None:
    tracking = Tracking(FullFor(spool, 3), child.pid, interval_s=0.1)
    tracking.tick()
    tracking.end(exit_code=0, run_status="finished")
    assert queries.counts(spool.connection).recorded == 1


def test_rows_that_are_lost_in_the_end_are_counted_aloud(
    spool: Spool, child: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "LAST_ROWS_S", 0.1)
    tracking = Tracking(FullFor(spool, 10**6), child.pid, interval_s=0.1)
    tracking.tick()
    tracking.tick()
    tracking.end(exit_code=0, run_status="finished")
    assert "the last 2 row(s) of the run could not be kept" in caplog.text


def test_missed_samples_are_skipped_and_not_made_up_for(spool: Spool, child: "subprocess.Popen[bytes]") -> None:
    tracking = Tracking(Recorder(spool, OFFLINE), child.pid, interval_s=10.0)
    tracking.next_at = time.monotonic() - 35.0
    tracking.tick()
    assert 0 < tracking.next_at - time.monotonic() <= 10.0
    assert tracking.row_count == 1


def test_tracker_whose_samples_are_rare_shows_that_it_lives(
    spool: Spool, child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = Tracking(Recorder(spool, OFFLINE), child.pid, interval_s=3600.0)
    tracking.next_at = time.monotonic() + 3600.0
    assert tracking.wait_s() <= 30
    began_at = time.time()
    assert tracking.tick_if_due()
    assert spool.run().tracker.heartbeat_at == 0.0, "it has only just begun"
    monkeypatch.setattr(tracking.recorder, "_beat_at", 0.0)
    assert tracking.tick_if_due()
    assert spool.run().tracker.heartbeat_at >= began_at
    assert tracking.row_count == 0


def test_end_that_cannot_be_recorded_is_told_and_raises_nothing(
    spool: Spool, child: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "LAST_ROWS_S", 0.1)
    recorder = Recorder(spool, OFFLINE)
    tracking = Tracking(recorder, child.pid, interval_s=0.1)
    shutil.rmtree(spool.path.parent)
    tracking.tick()
    tracking.end(exit_code=0, run_status="finished")
    assert "the end of the run could not be recorded" in caplog.text
    assert recorder.wait_finished(0.1) is None
    assert "has vanished" in recorder.waiting_text()
    recorder.tend()


# -- the recorder's part -----------------------------------------------------------------------------------------------


def test_recorder_says_how_many_rows_wait_where_and_what_to_do(spool: Spool) -> None:
    recorder = Recorder(spool, OFFLINE)
    recorder.append([Batch(b"timestamp,x\n", b"1,a\n2,b\n")])
    said = recorder.waiting_text()
    assert "2 row(s)" in said
    assert str(spool.path.parent) in said
    assert f"tracker-stream drain {spool.path.stem}" in said


def test_order_for_the_uploader_has_the_token_and_nothing_prints_it(spool: Spool) -> None:
    delivery = Delivery("a-secret-token", "https://example.com", None, 60, 300)
    assert delivery.order(spool.path)["token"] == "a-secret-token"
    assert "a-secret-token" not in repr(Recorder(spool, delivery))
    assert "a-secret-token" not in repr(delivery)


def test_forked_copy_of_a_recorder_is_not_ours(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(spool, OFFLINE)
    assert recorder.is_ours
    monkeypatch.setattr(recorder, "_pid", os.getpid() + 1)
    assert not recorder.is_ours
    assert not recorder.is_uploader_alive
    recorder.close()
    assert spool.run().state is RunState.OPEN, "the parent's spool is still open"


def test_damage_that_cannot_be_recovered_is_told_to_who_appends(spool: Spool) -> None:
    recorder = Recorder(spool, OFFLINE)
    spool.path.write_bytes(b"\0" * 8192)
    spools.journal_of(spool.path).write_bytes(b"")
    with pytest.raises(SpoolDamaged):
        recorder.append([Batch(b"timestamp,x\n", b"1,a\n")])


# -- the sampler -------------------------------------------------------------------------------------------------------


def test_sampler_gives_the_combined_columns_of_the_peer(child: "subprocess.Popen[bytes]") -> None:
    sampler = Sampler(child.pid)
    row = sampler.sample()
    assert row is not None
    names = [name.strip('"') for name in sampler.header.decode().strip().split(",")]
    assert names[0] == "timestamp"
    kinds = [name.partition("_")[0] for name in names[1:]]
    assert kinds == sorted(kinds, key=["system", "process"].index), "system_*, then process_*"
    assert {"system_cpu_usage", "system_memory_used_mib", "process_cpu_usage", "process_memory_mib"} <= set(names)
    assert len(row.split(b",")) == len(names)
    assert list(sampler.latest) == names


def test_sampler_of_a_process_that_is_gone_gives_none(child: "subprocess.Popen[bytes]") -> None:
    sampler = Sampler(child.pid)
    child.kill()
    child.wait()
    assert sampler.sample() is None
