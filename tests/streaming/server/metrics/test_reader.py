"""What is read from S3: only what is new, and what was read is kept."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from streaming.server.errors import StoreUnavailable
from streaming.server.metrics.reader import FULL_LIST_EVERY_S, MOST_WAITING, Reading, RunReader, TooManyReaders
from streaming.server.storage.objects import Bucket
from streaming.server.storage.runs import Finish
from tests.streaming.server.conftest import Service


class CountingStore(Bucket):
    """Counts what is read; can be cut off."""

    reads: list[str]
    is_cut_off = False

    def list(self, prefix: str, *, after: str | None = None) -> Any:
        if self.is_cut_off:
            raise StoreUnavailable("cut off")
        return super().list(prefix, after=after)

    def read(self, key: str) -> bytes:
        self.reads.append(key.rpartition("/")[2])
        return super().read(key)


class Fixture:
    """A run, and readers of its rows."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.run = service.register()
        self.store = CountingStore(service.s3)
        self.store.reads = []
        self.now_s = 1000.0
        self.reader = self.another_reader()

    def another_reader(self, **options: Any) -> RunReader:
        """As after a restart: the same cache directory, nothing in memory."""
        cache = service_directory(self.service) / "cache"
        runs = self.service.app.state.runs
        return RunReader(self.store, runs, cache, monotonic=lambda: self.now_s, **options)

    def put(self, number: int, *values: int) -> str:
        rows = "".join(f"{number}{value},{value}\n" for value in values)
        return self.service.put(self.run, f"{number:04d}.csv.gz", gzip.compress(f"timestamp,a\n{rows}".encode()))

    def read(self, reader: RunReader | None = None, **options: Any) -> Reading:
        run = self.service.app.state.runs.get(self.run["run_id"])
        return (reader or self.reader).read(run, **{"fresh_s": 0, **options})

    def finish(self, *uris: str) -> None:
        self.service.app.state.runs.finish(self.run["run_id"], Finish("finished", 0, None, data_uris=uris))


def names_of(reading: Reading) -> list[str]:
    return [facts.key.rpartition("/")[2] for facts in reading.rows.objects]


def service_directory(service: Service) -> Path:
    return Path(service.app.state.settings.directory)


@pytest.fixture
def fixture(service: Service) -> Any:
    made = Fixture(service)
    yield made
    made.reader.close()
    made.store.close()


def test_each_object_is_read_once(fixture: Fixture) -> None:
    fixture.put(1, 1, 2)
    assert fixture.read().rows.row_count == 2
    fixture.put(2, 3)
    assert fixture.read().rows.row_count == 3
    assert fixture.read().rows.row_count == 3
    assert fixture.store.reads == ["0001.csv.gz", "0002.csv.gz"]


def test_a_restart_reads_nothing_again(fixture: Fixture) -> None:
    fixture.put(1, 1, 2)
    fixture.read()
    again = fixture.another_reader()
    assert fixture.read(again).rows.column("a").tolist() == [1.0, 2.0]
    again.close()
    assert fixture.store.reads == ["0001.csv.gz"]


def test_after_a_restart_a_settled_run_needs_no_look_into_the_bucket(fixture: Fixture) -> None:
    fixture.finish(fixture.put(1, 1, 2))
    fixture.read()
    fixture.service.app.state.runs.set_statistics(fixture.run["run_id"], {"complete": True})
    fixture.store.is_cut_off = True
    again = fixture.another_reader()
    reading = fixture.read(again)
    assert (reading.rows.row_count, reading.is_complete) == (2, True)
    again.close()


def test_other_content_under_the_same_key_replaces_what_was_read(fixture: Fixture) -> None:
    fixture.put(1, 1, 2)
    fixture.read()
    fixture.put(1, 1, 2, 3)
    fixture.now_s += FULL_LIST_EVERY_S + 1
    assert fixture.read().rows.row_count == 3


def test_an_object_that_sorts_before_what_is_known_is_seen_within_a_minute(fixture: Fixture) -> None:
    fixture.put(9999, 1)
    fixture.read()
    fixture.put(10_000, 2)
    fixture.put(9998, 3)
    fixture.now_s += FULL_LIST_EVERY_S + 1
    assert names_of(fixture.read()) == ["9998.csv.gz", "9999.csv.gz", "10000.csv.gz"]


def test_within_the_time_the_bucket_is_not_looked_at_again(fixture: Fixture) -> None:
    fixture.put(1, 1)
    fixture.read(fresh_s=2.0)
    fixture.put(2, 1)
    assert fixture.read(fresh_s=2.0).rows.row_count == 1
    fixture.now_s += 3
    assert fixture.read(fresh_s=2.0).rows.row_count == 2


def test_a_finished_run_has_the_rows_that_its_finish_lists_in_that_order(fixture: Fixture) -> None:
    first, _, third = (fixture.put(number, number) for number in (1, 2, 3))
    assert fixture.read().rows.row_count == 3
    fixture.finish(third, first)
    reading = fixture.read()
    assert names_of(reading) == ["0003.csv.gz", "0001.csv.gz"]
    assert reading.is_complete
    assert len(reading.rows.all_objects) == 3


def test_a_missing_object_is_looked_for_until_it_is_there(fixture: Fixture) -> None:
    first = fixture.put(1, 1)
    fixture.finish(first, first.replace("0001", "0002"))
    assert not fixture.read().is_complete
    fixture.put(2, 2)
    assert fixture.read().is_complete
    fixture.store.is_cut_off = True
    assert fixture.read().is_complete  # settled: no need to look again


def test_an_outage_gives_what_is_known_and_says_so(fixture: Fixture) -> None:
    fixture.store.is_cut_off = True
    with pytest.raises(StoreUnavailable):
        fixture.read()
    fixture.store.is_cut_off = False
    fixture.put(1, 1)
    fixture.read()
    fixture.store.is_cut_off = True
    reading = fixture.read()
    assert (reading.rows.row_count, reading.is_complete) == (1, False)


def test_what_is_damaged_torn_or_missing_on_disk_is_read_again(fixture: Fixture) -> None:
    for number in range(1, 4):
        fixture.put(number, number, number)
    assert fixture.read().rows.row_count == 6
    (path,) = [part.path for part in fixture.read().rows.parts]
    damages = (lambda: path.write_bytes(path.read_bytes()[:-30]), lambda: path.write_bytes(b""), path.unlink)
    for damage in damages:
        damage()
        again = fixture.another_reader()
        assert fixture.read(again).rows.column("a").tolist() == [1, 1, 2, 2, 3, 3]
        again.close()


def test_a_part_that_is_damaged_while_in_use_is_read_again(fixture: Fixture) -> None:
    fixture.put(1, 1, 2)
    (part,) = fixture.read().rows.parts
    content = part.path.read_bytes()
    part.path.write_bytes(content[:10] + bytes(100) + content[110:])
    run = fixture.service.app.state.runs.get(fixture.run["run_id"])
    assert fixture.reader.using(run, lambda reading: reading.rows.column("a").tolist()) == [1, 2]


def test_more_requests_than_may_wait_are_answered_with_what_is_known(fixture: Fixture) -> None:
    fixture.put(1, 1)
    run = fixture.service.app.state.runs.get(fixture.run["run_id"])
    fixture.reader._waiting[run.token_id] = MOST_WAITING
    with pytest.raises(TooManyReaders):
        fixture.read()
    fixture.reader._waiting.clear()
    fixture.read()
    fixture.put(2, 1)
    fixture.reader._waiting[run.token_id] = MOST_WAITING
    assert fixture.read().rows.row_count == 1


def test_parts_are_few_and_descriptors_none(fixture: Fixture) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 40):
        fixture.put(number, number)
        assert fixture.read().rows.row_count == number
    rows = fixture.read().rows
    assert rows.column("a").tolist() == list(range(1, 40))
    assert len(rows.parts) <= 7
    assert len(list(rows.parts[0].path.parent.iterdir())) == len(rows.parts)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the worker's pipe, connections to S3


def test_over_time_the_rest_is_left_for_later(fixture: Fixture) -> None:
    uri = fixture.put(1, 1)
    fixture.finish(uri)
    assert not fixture.read(timeout_s=-1).is_complete
    assert fixture.read().is_complete


def test_who_asks_while_somebody_else_reads_hears_that_it_is_not_complete(fixture: Fixture) -> None:
    reader = fixture.another_reader(patience_s=0.1)
    assert fixture.read(reader).is_complete  # nothing was uploaded yet
    fixture.finish(fixture.put(1, 1))
    run = fixture.service.app.state.runs.get(fixture.run["run_id"])
    with reader._turn(run):
        reading = fixture.read(reader)
    assert (reading.rows.row_count, reading.is_complete) == (0, False)
    reading = fixture.read(reader)
    assert (reading.rows.row_count, reading.is_complete) == (1, True)
    reader.close()


def test_runs_used_longest_ago_leave_memory_first(fixture: Fixture) -> None:
    small = fixture.another_reader(memory_limit_objects=3)
    fixture.put(1, 1)
    run = fixture.service.app.state.runs.get(fixture.run["run_id"])
    fixture.read(small)
    other = fixture.service.app.state.runs.get(fixture.service.register()["run_id"])
    small.read(other)
    assert run.run_id in small._entries  # one object, and a little for each run
    fixture.put(2, 1)
    fixture.read(small)
    small.read(other, fresh_s=0)
    assert run.run_id not in small._entries
    small.close()
