"""`streaming.runs()`: what was recorded, as tables."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

import streaming
from spool import Batch, Spool
from spool.errors import NoSuchRun
from streaming.errors import BadArgument, Unreachable
from streaming.read import runs as reading
from streaming.read.export.html import MOST_POINTS, STRETCHES
from tests.support.processes import Home
from tests.support.runs import HEADER, ended_run, live_run, rows
from tests.support.spools import raw


def test_a_run_is_a_typed_table_in_order_and_a_data_frame(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    run = streaming.runs()[path.stem]
    assert run.table().to_pydict() == {
        "timestamp": [datetime.fromtimestamp(1700000000 + n, timezone.utc) for n in range(3)],
        "process_cpu_usage": [0.5, 1.5, 2.5],
        "process_memory_mib": [100.0, 101.0, 102.0],
    }
    assert run.table(["process_memory_mib"]).column_names == ["process_memory_mib"]
    pandas = pytest.importorskip("pandas")
    frame = run.to_pandas()
    assert pandas.api.types.is_datetime64_any_dtype(frame["timestamp"])
    assert frame["process_memory_mib"].sum() == 303
    assert run.summary()["process_memory_mib"] == {"average": 101.0, "peak": 102.0}
    assert run.summary()["row_count"] == 3


def test_runs_are_found_filtered_and_shown(home: Home) -> None:
    first, second = ended_run(home.spool_dir, row_count=1), live_run(home.spool_dir, row_count=2)
    found = streaming.runs(home.spool_dir)
    assert sorted(run.name for run in found) == sorted([first.stem, second.stem])
    assert len(found[:1]) == 1
    assert [run.name for run in found.where(row_count=2)] == [second.stem]
    assert found.table().column("row_count").to_pylist() == [run.facts.row_count for run in found]
    assert first.stem in found._repr_html_()
    with pytest.raises(NoSuchRun):
        found["nosuch"]
    with pytest.raises(BadArgument, match="no column 'x'"):
        found[first.stem].table(["x"])
    with pytest.raises(BadArgument, match="not a directory"):
        streaming.runs(home.spool_dir / "nowhere")
    with pytest.raises(Unreachable):
        streaming.runs("http://127.0.0.1:1", token="x")


def test_a_run_that_is_written_to_gives_a_consistent_snapshot(home: Home) -> None:
    path = live_run(home.spool_dir, row_count=100)
    stop = threading.Event()

    def append() -> None:
        with closing(Spool(path)) as spool:
            number = 100
            while not stop.is_set():
                spool.append([Batch(HEADER, rows(1, first=number))])
                number += 1
                stop.wait(
                    0.01
                )  # as fast as a tracker ever appends: SQLite gives no turn to whoever waits for a writer without a pause

    writer = threading.Thread(target=append)
    writer.start()
    try:
        run = streaming.runs(home.spool_dir)[path.stem]
        before = 0
        for _ in range(10):
            table = run.table()
            assert table.num_rows >= before
            seconds = table.column("timestamp").cast(pa.int64()).to_pylist()
            assert seconds == [(1700000000 + n) * 1_000_000 for n in range(len(seconds))]
            before = table.num_rows
    finally:
        stop.set()
        writer.join()


def test_a_damaged_spool_is_told_and_the_others_are_read(home: Home) -> None:
    good, bad = ended_run(home.spool_dir, row_count=3), ended_run(home.spool_dir, row_count=4, batch_rows=2)
    with raw(bad) as db:
        db.execute("UPDATE batch SET csv = replace(csv, '17', '18') WHERE batch_id = 2")
    found = streaming.runs(home.spool_dir)
    assert found[good.stem].table().num_rows == 3
    assert found[bad.stem].table().num_rows == 2  # what is as it was appended
    bad.write_bytes(b"no database" * 1000)
    found = streaming.runs(home.spool_dir)
    assert {run.name: run.state for run in found}[bad.stem] in ("damaged", "unreadable")
    assert found[good.stem].table().num_rows == 3


def test_a_run_shows_itself_as_its_charts_without_a_network(home: Home) -> None:
    path = ended_run(home.spool_dir, row_count=5)
    shown = streaming.runs(home.spool_dir)[path.stem]._repr_html_()
    assert shown.startswith("<iframe sandbox")
    assert "http://" not in shown.replace("http://www.w3.org", "")


def test_many_rows_are_shown_as_stretches(home: Home) -> None:
    count = MOST_POINTS + 1
    lines = b"".join(b"%d,%d\n" % (1_700_000_000 + n, 100 if n == 777 else n % 2) for n in range(count))
    path = live_run(home.spool_dir, row_count=0)
    with closing(Spool(path)) as spool:
        spool.append([Batch(b"timestamp,system_cpu_usage\n", lines)])
    page = streaming.runs(home.spool_dir)[path.stem].to_html()
    assert '"kinds": ["mean", "max", "min"]' in page
    assert f'"count": {STRETCHES}' in page


def test_without_the_extra_the_error_says_what_to_install(home: Home) -> None:
    from tests.support.processes import clean_environment, new_marker, run_script

    script = """
import sys
sys.modules["pyarrow"] = None
import streaming
try:
    streaming.runs()
except streaming.read.runs.BadArgument if False else Exception as error:
    print(type(error).__name__, error)
"""
    result = run_script(script, clean_environment(home, new_marker()))
    assert b"pip install 'tracker-stream[read]'" in result.stdout


def test_the_source_is_told_by_its_form(home: Home, tmp_path: Path) -> None:
    assert len(reading.runs(tmp_path)) == 0
    assert len(reading.runs()) == 0
