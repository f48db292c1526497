"""The feeder: whole lines from the recorded offset, each once, whatever happens to the file; when its updater is called."""

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from spool import Spool, queries
from spool.errors import SpoolFull
from streaming.collect import csv_tail
from streaming.collect.csv_tail import HELD_LOOKS, READ_BYTES, CsvFeeder, UpdateSchedule
from tests.support import plays, spools
from tests.support.spools import HEADER, rows


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.fixture
def spool(tmp_path: Path, csv_path: Path) -> Iterator[Spool]:
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as made:
        yield made


def append(csv_path: Path, content: bytes) -> None:
    with csv_path.open("ab") as file:
        file.write(content)


def test_rows_are_taken_once_as_the_file_grows(spool: Spool, csv_path: Path) -> None:
    feeder = CsvFeeder(spool, csv_path)
    counts = []
    for content in (b"timest", b"amp,x\n1,", b"a\n", b"2,b\n3,", b"c\n"):
        append(csv_path, content)
        counts.append(feeder.take())
    assert counts == [0, 0, 1, 1, 1]
    assert list(queries.exported(spool.connection)) == [
        (HEADER, b"1,a\n"),
        (HEADER, b"2,b\n"),
        (HEADER, b"3,c\n"),
    ]
    assert spool.csv_offset() == csv_path.stat().st_size


def test_file_without_a_newline_is_told_once_and_costs_little_at_every_look(
    spool: Spool, csv_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_tail, "LINE_MAX_BYTES", 3 * READ_BYTES)
    append(csv_path, HEADER + rows(0, 1) + b"x" * (4 * READ_BYTES))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    read_bytes = [0]

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            count = super().readinto(buffer)
            read_bytes[0] += count or 0
            return count

    def open_counted(path: Path, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(Counted(path), 1 << 12)

    monkeypatch.setattr(csv_tail, "open", open_counted, raising=False)
    for _ in range(3):
        append(csv_path, b"x" * 1000)
        assert feeder.take() == 0
    assert 0 < read_bytes[0] < 4 * READ_BYTES  # the beginning of the line, and what is new; not all of it each time
    assert caplog.text.count("csv.line_too_long") == 1
    append(csv_path, b"\n" + rows(1, 2))
    assert feeder.take() == 2
    assert spools.exported(spool) == rows(0, 3)
    assert CsvFeeder(spool, csv_path).take(is_final=True) == 0


def test_long_line_that_comes_in_pieces_is_a_row_when_it_ends(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER)
    feeder = CsvFeeder(spool, csv_path)
    for _ in range(3):
        append(csv_path, b"y" * READ_BYTES)
        assert feeder.take() == 0
    append(csv_path, b"\n")
    assert feeder.take() == 1
    append(csv_path, b"z" * (2 * READ_BYTES))
    assert feeder.take(is_final=True) == 1
    assert spools.exported(spool) == b"y" * (3 * READ_BYTES) + b"\n" + b"z" * (2 * READ_BYTES) + b"\n"


def test_another_feeder_goes_on_where_the_spool_says(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + rows(0, 3))
    CsvFeeder(spool, csv_path).take()
    append(csv_path, rows(3, 3))
    assert CsvFeeder(spool, csv_path).take() == 3
    assert spools.exported(spool) == rows(0, 6)


@pytest.mark.parametrize("moment", ["append:inserted", "appended"])
def test_look_that_is_interrupted_takes_each_row_once(tmp_path: Path, csv_path: Path, moment: str) -> None:
    """Ctrl-C in `stop`, before or after the commit: the next look goes on from what the spool says."""
    interrupts = iter([False, True])

    def interrupt(step: str) -> None:
        if step == moment and next(interrupts, False):
            raise KeyboardInterrupt

    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path), step=interrupt)) as spool:
        feeder = CsvFeeder(spool, csv_path)
        append(csv_path, HEADER + rows(0, 3))
        feeder.take()
        append(csv_path, rows(3, 3))
        with pytest.raises(KeyboardInterrupt):
            feeder.take()
        append(csv_path, rows(6, 3))
        feeder.take()
        assert spools.exported(spool) == rows(0, 9)


def test_another_feeder_knows_the_header_in_force(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,a\n" + b"timestamp,x,y\n2,b,c\n")
    CsvFeeder(spool, csv_path).take()
    append(csv_path, b"3,d,e\n")
    CsvFeeder(spool, csv_path).take()
    assert list(queries.exported(spool.connection))[-1] == (b"timestamp,x,y\n", b"3,d,e\n")


def test_unfinished_last_line_is_a_row_once_its_writer_is_done(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,a\n2,b")
    feeder = CsvFeeder(spool, csv_path)
    assert feeder.take() == 1
    assert feeder.take(is_final=True) == 1
    assert feeder.take(is_final=True) == 0
    assert spools.exported(spool) == b"1,a\n2,b\n"


def test_large_file_is_taken_in_pieces_that_end_with_lines(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + rows(0, 30_000, width=100))
    assert CsvFeeder(spool, csv_path).take() == 30_000
    (largest,) = spool.connection.query("SELECT max(length(csv)) FROM batch")[0]
    assert READ_BYTES // 2 < largest <= READ_BYTES
    assert spools.exported(spool) == rows(0, 30_000, width=100)


def test_line_longer_than_a_piece_is_taken_whole(spool: Spool, csv_path: Path) -> None:
    long = b"1," + b"x" * (2 * READ_BYTES) + b"\n"
    append(csv_path, HEADER + long + b"2,b\n")
    CsvFeeder(spool, csv_path).take()
    assert spools.exported(spool) == long + b"2,b\n"


def test_vanished_file_is_told_once_and_taken_over_when_it_is_back(
    spool: Spool, csv_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feeder = CsvFeeder(spool, csv_path)
    for _ in range(3):
        assert feeder.take() == 0
    assert caplog.text.count("csv.unreadable") == 1
    append(csv_path, HEADER + b"1,a\n")
    assert feeder.take() == 1


def test_shorter_file_is_a_new_one(spool: Spool, csv_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(csv_path, HEADER + rows(0, 10))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    csv_path.write_bytes(HEADER + b"99,new\n")
    assert feeder.take() == 1
    assert "csv.replaced" in caplog.text
    assert spools.exported(spool) == rows(0, 10) + b"99,new\n"


def test_file_moved_into_place_is_a_new_one_though_it_is_longer(
    spool: Spool, csv_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(csv_path, HEADER + b"1,one\n")
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    replace(csv_path, HEADER + b"101,alpha\n102,beta\n")
    assert feeder.take() == 2
    assert "csv.replaced" in caplog.text
    assert spools.exported(spool) == b"1,one\n101,alpha\n102,beta\n"


def test_file_written_anew_with_other_rows_is_a_new_one_though_it_is_longer(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + rows(0, 100, width=10))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    csv_path.write_bytes(HEADER + rows(500, 200, width=10))
    assert feeder.take() == 200
    assert spools.exported(spool) == rows(0, 100, width=10) + rows(500, 200, width=10)


def test_another_feeder_finds_that_the_file_was_replaced(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,one\n")
    CsvFeeder(spool, csv_path).take()
    replace(csv_path, HEADER + b"101,alpha\n102,beta\n")
    assert CsvFeeder(spool, csv_path).take() == 2
    assert spools.exported(spool) == b"1,one\n101,alpha\n102,beta\n"


def test_file_moved_into_place_with_the_same_rows_and_more_goes_on(spool: Spool, csv_path: Path) -> None:
    feeder = CsvFeeder(spool, csv_path)
    for count in (3, 100, 103):
        replace(csv_path, HEADER + rows(0, count, width=10))
        feeder.take()
    replace(csv_path, HEADER + rows(0, 105, width=10))
    CsvFeeder(spool, csv_path).take()
    assert spools.exported(spool) == rows(0, 105, width=10)


def replace(csv_path: Path, content: bytes) -> None:
    new = csv_path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(csv_path)


@pytest.mark.parametrize("look_at_bytes", [0, 20, 400])
def test_rows_are_taken_once_though_the_file_is_seen_while_it_is_written_anew(
    spool: Spool, csv_path: Path, caplog: pytest.LogCaptureFixture, look_at_bytes: int
) -> None:
    append(csv_path, HEADER + rows(0, 100))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    again = HEADER + rows(0, 103)
    for _ in range(2):
        csv_path.write_bytes(again[:look_at_bytes])
        assert sum(feeder.take() for _ in range(HELD_LOOKS)) == 0
        append(csv_path, again[look_at_bytes:])
        feeder.take()
        again += rows(103, 1)
    assert spools.exported(spool) == rows(0, 104)
    assert "csv.replaced" not in caplog.text


@pytest.mark.parametrize("is_final", [False, True])
def test_file_that_stays_shorter_is_a_new_one(spool: Spool, csv_path: Path, is_final: bool) -> None:
    append(csv_path, HEADER + rows(0, 10))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    csv_path.write_bytes(HEADER + rows(0, 2))
    assert sum(feeder.take(is_final=is_final) for _ in range(1 if is_final else HELD_LOOKS + 1)) == 2


def test_another_feeder_decides_at_once_that_a_shorter_file_is_a_new_one(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + rows(0, 10))
    CsvFeeder(spool, csv_path).take()
    csv_path.write_bytes(HEADER + rows(0, 2))
    assert CsvFeeder(spool, csv_path).take() == 2


def test_another_feeder_goes_on_behind_a_line_that_was_unfinished(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,a\n2,b")
    CsvFeeder(spool, csv_path).take(is_final=True)
    assert CsvFeeder(spool, csv_path).take(is_final=True) == 0


def test_another_feeder_does_not_compare_with_rows_that_are_damaged_or_lost(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,a\n")
    CsvFeeder(spool, csv_path).take()
    append(csv_path, b"timestamp,x,y\n2,b,c\ntimestamp,x\n3,d\n")
    CsvFeeder(spool, csv_path).take()
    with spools.raw(spool.path) as db:
        db.execute("UPDATE batch SET csv = ? WHERE batch_id = 3", (b"3,e\n",))
    assert CsvFeeder(spool, csv_path).take() == 0
    with spools.raw(spool.path) as db:  # the one before has the offset behind both
        db.execute("DELETE FROM batch WHERE batch_id = 3")
    assert CsvFeeder(spool, csv_path).take() == 0


def test_another_feeder_knows_the_header_that_came_last_without_rows(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + b"1,a\n" + b"timestamp,x,y\n")
    feeder = CsvFeeder(spool, csv_path)
    assert (feeder.take(), feeder.take()) == (1, 0)
    append(csv_path, b"2,b,c\n")
    CsvFeeder(spool, csv_path).take()
    assert list(queries.exported(spool.connection)) == [(HEADER, b"1,a\n"), (b"timestamp,x,y\n", b"2,b,c\n")]


def test_look_at_a_long_file_reads_little_of_it(spool: Spool, csv_path: Path) -> None:
    append(csv_path, HEADER + rows(0, 20_000, width=100))
    feeder = CsvFeeder(spool, csv_path)
    feeder.take()
    before = read_bytes()
    feeder.take()
    assert read_bytes() - before < 64 << 10


def read_bytes() -> int:
    """What this process has read so far, from the page cache too."""
    return int(Path("/proc/self/io").read_text().split()[1])


class FullAtFirst:
    """A spool that has no room for large appends, as on a disk that is almost full."""

    def __init__(self, spool: Spool, room_bytes: int) -> None:
        self._spool = spool
        self._room_bytes = room_bytes
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._spool, name)

    def append(self, batches: list[spools.Batch], **offsets: int) -> None:
        if sum(len(batch.rows) for batch in batches) > self._room_bytes:
            self.refused += 1
            raise SpoolFull("no room")
        self._spool.append(batches, **offsets)


def test_smaller_pieces_are_tried_where_a_large_one_finds_no_room(spool: Spool, csv_path: Path) -> None:
    full = FullAtFirst(spool, 100_000)
    append(csv_path, HEADER + rows(0, 5000, width=100))
    assert CsvFeeder(full, csv_path).take() == 5000  # type: ignore[arg-type]
    assert spools.exported(spool) == rows(0, 5000, width=100)
    assert full.refused


def test_refused_rows_stay_in_the_file_and_are_taken_with_the_next(spool: Spool, csv_path: Path) -> None:
    full = FullAtFirst(spool, 0)
    append(csv_path, HEADER + b"1,a\n")
    feeder = CsvFeeder(full, csv_path)  # type: ignore[arg-type]
    with pytest.raises(SpoolFull):
        feeder.take()
    assert spool.csv_offset() == 0
    full._room_bytes = 1000
    assert feeder.take() == 1
    assert spools.exported(spool) == b"1,a\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_slow_update_takes_at_most_a_twentieth_of_the_time_but_comes_before_each_upload() -> None:
    clock, calls = Clock(), []

    def update() -> None:
        calls.append(clock.now)
        clock.now += 1.0

    schedule = UpdateSchedule(update, upload_interval_s=60, clock=clock)
    while clock.now < 200:
        schedule.call_if_due()
        clock.now += 1.0
    gaps = {later - earlier for earlier, later in pairwise(calls)}
    assert gaps == {20.0}


def test_very_slow_update_is_called_once_per_upload_interval() -> None:
    clock, calls = Clock(), []

    def update() -> None:
        calls.append(clock.now)
        clock.now += 10.0

    schedule = UpdateSchedule(update, upload_interval_s=60, clock=clock)
    while clock.now < 300:
        schedule.call_if_due()
        clock.now += 1.0
    assert {later - earlier for earlier, later in pairwise(calls)} == {60.0}


def test_failing_update_is_told_once_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def update() -> None:
        calls.append(1)
        raise RuntimeError("not yet")

    schedule = UpdateSchedule(update, upload_interval_s=60, clock=Clock())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            schedule.call_if_due(is_final=True)
    assert len(calls) == 3
    assert caplog.text.count("csv_update.failed") == 1
