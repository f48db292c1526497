"""A lake: read by others as it is, built again and again, killed anywhere, and built by a cluster."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

import streaming
from spool import Batch, NewRun, Spool, system
from streaming.errors import BadArgument
from streaming.read import lake as lakes
from streaming.read.lake import build
from tests.support.processes import Home, clean_environment, eventually, new_marker

START = 1_700_000_000  # 106 minutes before the end of a day (UTC)
HEADER = b"timestamp,process_memory_mib,label\n"


def recorded(home: Home, count: int, *, start: int = START, project: str | None = None, step: int = 60) -> Path:
    new = NewRun(
        tracker=system.identify(os.getpid()),
        started_at=float(start),
        metadata={"job_name": f"job {count}", **({"project_name": project} if project else {})},
        host_info={},
        cloud_info={},
    )
    with closing(Spool.create(home.spool_dir, new)) as spool:
        if count:
            spool.append([Batch(HEADER, b"".join(b"%d,%d,007\n" % (start + n * step, n) for n in range(count)))])
        spool.end(exit_code=0, run_status="finished", ended_at=float(start + count * step))
    return spool.path


def totals(lake: Path) -> tuple[int, float]:
    """By plain DuckDB, over the files as they are."""
    sql = f"SELECT count(*), sum(process_memory_mib) FROM read_parquet('{lake}/rows/*/*/*.parquet', hive_partitioning=true)"
    (found,) = duckdb.sql(sql).fetchall()
    return int(found[0]), float(found[1] or 0)


def files(lake: Path) -> dict[str, int]:
    return {str(path.relative_to(lake)): path.stat().st_mtime_ns for path in sorted(lake.rglob("*")) if path.is_file()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Dask with the newest pandas
def test_all_readers_see_the_same_rows_sums_and_types_as_export(home: Home, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    paths = [
        recorded(home, 200, project="a/b c"),
        recorded(home, 50, project="x"),
        recorded(home, 7),
        recorded(home, 0),
    ]
    assert build(str(home.spool_dir), lake) == 4
    expected = (257, float(sum(range(200)) + sum(range(50)) + sum(range(7))))
    assert totals(lake) == expected
    days = duckdb.sql(
        f"SELECT DISTINCT project, day FROM read_parquet('{lake}/rows/*/*/*.parquet', hive_partitioning=true)"
    )
    assert ("a/b c", "2023-11-15") in [(project, str(day)) for project, day in days.fetchall()]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(lake / "rows")
    assert (len(frame), frame["process_memory_mib"].sum()) == expected
    assert pandas.api.types.is_datetime64_any_dtype(frame["timestamp"])
    polars = pytest.importorskip("polars")
    table = polars.scan_parquet(lake / "rows/**/*.parquet", hive_partitioning=True).collect()
    assert (table.height, table["process_memory_mib"].sum()) == expected
    dask = pytest.importorskip("dask.dataframe")
    assert dask.read_parquet(lake / "rows")["process_memory_mib"].sum().compute(scheduler="sync") == expected[1]
    of_spool, of_lake = streaming.runs(home.spool_dir), streaming.runs(lake)
    for path in paths:
        before, after = of_spool[path.stem].table(), of_lake[path.stem].table()
        for name in ("timestamp", "process_memory_mib"):
            if before.num_rows:
                assert before.column(name).equals(after.column(name))
        assert after.column("other").to_pylist() == ['{"label": "007"}'] * before.num_rows
    sql = "SELECT job_name, count(*) AS n FROM rows JOIN runs USING (run) GROUP BY 1 ORDER BY 2"
    assert of_lake.query(sql).to_pylist() == of_spool.query(sql).to_pylist()
    with pytest.raises(BadArgument):
        of_lake.query(f"SELECT * FROM read_parquet('{lake}/runs.parquet')")


def test_only_what_changed_is_built_again_and_replaces_what_was_there(home: Home, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    recorded(home, 5)
    new = NewRun(tracker=system.identify(os.getpid()), started_at=float(START), host_info={}, cloud_info={})
    with closing(Spool.create(home.spool_dir, new)) as live:
        live.append([Batch(HEADER, b"%d,1,a\n" % START)])
        assert build(str(home.spool_dir), lake) == 2
        before = files(lake)
        assert build(str(home.spool_dir), lake) == 0
        live.append([Batch(HEADER, b"%d,1,a\n" % (START + 86_400))])
        assert build(str(home.spool_dir), lake) == 1
    assert totals(lake) == (7, 12.0)
    after = files(lake)
    unchanged = [name for name, at in before.items() if after.get(name) == at]
    assert len([name for name in unchanged if name.startswith("rows/")]) == 1
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("killed_at", ["first file", "before the note"])
def test_killed_and_repeated_no_row_is_missing_and_none_is_there_twice(
    home: Home, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    for count in (100, 200, 300):
        recorded(home, count)
    whole = lakes._write

    class Killed(BaseException):
        pass

    def write(path: Path, rows: Any) -> None:
        if killed_at == "before the note" and path.name == "runs.parquet":
            raise Killed
        whole(path, rows)
        if killed_at == "first file":
            raise Killed

    monkeypatch.setattr(lakes, "_write", write)
    with pytest.raises(Killed):
        build(str(home.spool_dir), lake)
    monkeypatch.setattr(lakes, "_write", whole)
    build(str(home.spool_dir), lake)
    assert totals(lake)[0] == 600


def test_the_command_killed_by_force_and_repeated_with_more_processes(home: Home, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    for count in range(1, 31):
        recorded(home, count * 10)
    command = [sys.executable, "-m", "streaming", "lake", "build", str(home.spool_dir), str(lake)]
    environment = clean_environment(home, new_marker())
    building = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    eventually(lambda: lake.exists() and len(list(lake.rglob("*.parquet"))) > 3, 60)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    done = subprocess.run([*command, "--workers", "2"], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert totals(lake)[0] == sum(count * 10 for count in range(1, 31))


def test_a_cluster_builds_the_same_though_a_worker_is_killed_in_the_middle(home: Home, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    lake = tmp_path / "lake"
    for count in range(1, 41):
        recorded(home, count * 20)
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    )
    try:
        killed: list[int] = []

        def kill_one(_facts: Any) -> None:
            if not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        count = build(str(home.spool_dir), lake, scheduler=cluster.scheduler_address, on_built=kill_one)
        assert (count, len(killed)) == (40, 1)
    finally:
        cluster.close()
    assert totals(lake)[0] == sum(count * 20 for count in range(1, 41))
    assert len(streaming.runs(lake)) == 40
    assert build(str(home.spool_dir), lake) == 0


def test_runs_of_a_bare_prefix_are_unique_by_content(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    boto3 = pytest.importorskip("boto3")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SENTINEL_S3_ENDPOINT_URL", f"http://{host}:{port}")
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        s3.create_bucket(Bucket="lake-of-a-prefix")

        def put(name: str, *numbers: int) -> None:
            text = HEADER + b"".join(b"%d,%d,a\n" % (START + number, number) for number in numbers)
            s3.put_object(Bucket="lake-of-a-prefix", Key=f"runs/{name}.csv.gz", Body=gzip.compress(text))

        put("one/00000001-0123456789ab", 1, 2)
        put("one/00000002-0123456789ac", 3, 4)
        put("one/00000001-0123456789ad", 1, 2, 3)  # of a copy, cut elsewhere
        put("two/0001", 7)
        assert build("s3://lake-of-a-prefix/runs", tmp_path / "lake") == 2
        assert totals(tmp_path / "lake") == (5, 17.0)
        assert build("s3://lake-of-a-prefix/runs", tmp_path / "lake") == 0
        put("two/0002", 8)
        assert build("s3://lake-of-a-prefix/runs", tmp_path / "lake") == 1
        assert totals(tmp_path / "lake") == (6, 25.0)
        assert sorted(run.name for run in streaming.runs("s3://lake-of-a-prefix/runs")) == ["one", "two"]
    finally:
        server.stop()
