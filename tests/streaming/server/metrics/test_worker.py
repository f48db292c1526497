"""Objects that take too much work cost their own run a mark, and nobody anything else."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.server.metrics import parts, worker
from streaming.server.metrics.parse import ObjectFacts
from streaming.server.metrics.worker import NoRoomForRows, TooMuchWork, WorkerPool
from tests.streaming.server.conftest import Service

RAGGED = gzip.compress(b"a" + b",a" * 999 + b"\n" + b"1\n" * 900_000)  # a few kB; 900 million cells to fill
GOOD = gzip.compress(b"timestamp,a\n1,2\n")


def facts(key: str) -> ObjectFacts:
    return ObjectFacts(key, key, 1, 0.0)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(timeout_s=10)
    yield made
    made.close()


def process_ids(pool: WorkerPool) -> list[int]:
    return [one._process.pid for one in pool._idle if one._process is not None]


def test_an_object_beyond_the_time_ends_the_process_and_the_next_is_read(tmp_path: Path) -> None:
    pool = WorkerPool(timeout_s=1)
    with pytest.raises(TooMuchWork):
        pool.parse(1, tmp_path / "00000001.parquet", [(facts("slow"), RAGGED)])
    pool._timeout_s = 20
    pool.parse(1, tmp_path / "00000002.parquet", [(facts("good"), GOOD)])
    assert [part.column("a").tolist() for part in parts.load(tmp_path)] == [[2.0]]
    pool.close()


def test_the_time_is_what_the_object_takes_and_not_what_a_busy_machine_or_a_start_takes(tmp_path: Path) -> None:
    pool = WorkerPool(timeout_s=0.2)  # less than the start of the process
    pool.parse(1, tmp_path / "00000001.parquet", [(facts("good"), GOOD)])
    assert len(parts.load(tmp_path)) == 1
    pool.close()


def test_an_object_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    pool = WorkerPool(timeout_s=100, memory_bytes=400 * 2**20)
    with pytest.raises(TooMuchWork):
        pool.parse(1, tmp_path / "00000001.parquet", [(facts("wide"), RAGGED)])
    assert list(tmp_path.glob("*.parquet")) == []
    pool.close()


def test_a_process_that_somebody_killed_is_no_fault_of_the_object(tmp_path: Path, pool: WorkerPool) -> None:
    pool.parse(1, tmp_path / "00000001.parquet", [(facts("a"), GOOD)])
    for pid in process_ids(pool):
        os.kill(pid, signal.SIGKILL)
    pool.parse(1, tmp_path / "00000002.parquet", [(facts("b"), GOOD)])
    assert len(parts.load(tmp_path)) == 2


def test_a_process_without_orders_ends_and_another_takes_the_next_one(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker, "_PROGRAM", worker._PROGRAM.replace("; serve", " as s; s.__globals__['_IDLE_S'] = 0.1; s")
    )
    pool.parse(1, tmp_path / "00000001.parquet", [(facts("a"), GOOD)])
    (one,) = pool._idle
    assert one._process is not None
    assert one._process.wait(30) == 0
    pool.parse(1, tmp_path / "00000002.parquet", [(facts("b"), GOOD)])
    assert len(parts.load(tmp_path)) == 2


def test_a_place_that_cannot_be_written_is_told_as_such(tmp_path: Path, pool: WorkerPool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoRoomForRows, match="Not a directory"):
        pool.parse(1, tmp_path / "file" / "00000001.parquet", [(facts("a"), GOOD)])


def test_one_tenant_waits_for_itself_only(tmp_path: Path, pool: WorkerPool) -> None:
    def parse_ragged() -> None:
        with contextlib.suppress(TooMuchWork):
            pool.parse(1, tmp_path / "00000001.parquet", [(facts("a"), RAGGED)])

    first = threading.Thread(target=parse_ragged)
    first.start()
    deadline = time.monotonic() + 20
    while not pool._busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pool.parse(2, tmp_path / "00000002.parquet", [(facts("b"), GOOD)])
    was_busy = 1 in pool._busy
    first.join()
    assert was_busy


def test_a_small_object_of_ragged_lines_is_an_error_of_its_own_within_bounds(service: Service) -> None:
    run = service.register()
    service.app.state.reader._workers._timeout_s = 1
    assert len(RAGGED) < 70_000
    service.put(run, "0001.csv.gz", RAGGED)
    service.put(run, "0002.csv.gz", GOOD)
    first, second = service.get(f"/runs/{run['run_id']}/objects").json()["objects"]
    assert first["error"] is not None
    assert (second["error"], second["row_count"]) == (None, 1)
