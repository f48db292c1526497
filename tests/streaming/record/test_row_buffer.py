"""Rows that wait in memory: bounded, in order, over the whole time, and every loss counted and told at once."""

import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

from spool import Batch, Spool, queries
from spool.errors import SpoolFull
from streaming.cli import main
from streaming.read.status import summarize
from streaming.record import tracker
from streaming.record.plan import Delivery
from streaming.record.recorder import Recorder
from streaming.record.row_buffer import RowBuffer
from streaming.record.tracker import Tracking
from tests.support import plays
from tests.support.processes import Home

OFFLINE = Delivery(None, "https://example.com", None, 60, 300)


def test_full_buffer_thins_out_the_whole_time_and_says_how_many_it_lost(caplog: pytest.LogCaptureFixture) -> None:
    buffer = RowBuffer(max_rows=100)
    for number in range(1000):
        buffer.add(b"%d\n" % number)
        assert len(buffer) <= 100
    kept = [int(line) for line in buffer.joined().split()]
    assert kept == [*range(0, 993, 16), 999], "the whole time at one resolution, and the newest row"
    assert len(kept) + buffer.lost_count == 1000
    told = [record.getMessage() for record in caplog.records]
    assert [int(text.split()[-3]) for text in told if text.startswith("rows.lost")] == [2, 4, 8, 16]
    buffer.clear()
    for number in range(100):
        buffer.add(b"%d\n" % number)
    assert len(buffer) == 100, "afterwards it takes all rows again"


class FullFor(Recorder):
    """A recorder whose disk is full for some appends."""

    def __init__(self, spool: Spool, refusals: int) -> None:
        super().__init__(spool, OFFLINE)
        self.refusals = refusals

    def append(self, batches: list[Batch]) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise SpoolFull("no room left")
        super().append(batches)


@pytest.mark.parametrize("refusals", [30, 10**6], ids=["room again", "never again"])
def test_lost_rows_are_told_by_the_run_itself(
    home: Home, refusals: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracker, "LAST_ROWS_S", 0.1)
    with (
        closing(Spool.create(home.spool_dir, plays.new_run())) as spool,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child,
    ):
        tracking = Tracking(FullFor(spool, refusals), child.pid, interval_s=0.1)
        tracking._buffer = RowBuffer(max_rows=8)
        for _ in range(40):
            tracking.tick()
        tracking.end(exit_code=0, run_status="finished")
        child.kill()
        recorded = queries.counts(spool.connection).recorded
        path = spool.path
    lost = summarize(path).lost_row_count
    assert recorded + lost == tracking.row_count == 40
    assert lost >= 4
    assert "rows.lost: 4 rows" in caplog.text
    assert f"{lost} rows could not be kept" in shown("status")
    assert f"{lost} rows that could not be kept" in shown("status", path.stem)
    assert f'"lost": {lost}' in shown("status", "--json")


def shown(*arguments: str) -> str:
    return CliRunner().invoke(main, arguments).stdout
