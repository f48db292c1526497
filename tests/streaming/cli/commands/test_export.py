"""`export`: every row of a run, in every format, also where the header changed."""

import json
import os
import stat
import subprocess
import sys
import tracemalloc
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pyarrow import parquet

from spool import Batch, Registration, Spool
from streaming.read.export.text import json_value
from tests.streaming.cli.conftest import AsProgram, InProcess
from tests.support.processes import Home, clean_environment, eventually, new_marker
from tests.support.runs import HEADER, ended_run, live_run, rows

OTHER_HEADER = b'"timestamp","process_memory_mib","gpu"\n'


def changed_run(spool_dir: Path) -> Path:
    """Two rows under the usual header, one under another."""
    path = live_run(spool_dir, row_count=2)
    with closing(Spool(path)) as spool:
        spool.append([Batch(OTHER_HEADER, b'1700000009,55,"A, B"\n')])
    return path


def test_csv_is_the_very_bytes_that_were_recorded(home: Home, program: AsProgram) -> None:
    path = ended_run(home.spool_dir, row_count=3000)
    result = program("export", path.stem)
    assert (result.exit_code, result.stdout) == (0, HEADER + rows(3000))


def test_delivered_run_can_still_be_exported(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    with closing(Spool(path)) as spool:
        spool.register(Registration("r", "s3://bucket/r"))
        for segment in spool.seal_pending():
            spool.mark_sent(segment, uri="s3://bucket/r/1", etag="e")
        spool.finish({})
    assert cli("export", path.stem).stdout_bytes == HEADER + rows(3)


def test_changed_header_becomes_the_union_of_columns(home: Home, cli: InProcess) -> None:
    text = cli("export", changed_run(home.spool_dir).stem).stdout
    assert text.splitlines() == [
        "timestamp,process_cpu_usage,process_memory_mib,gpu",
        "1700000000,0.5,100,",
        "1700000001,1.5,101,",
        '1700000009,,55,"A, B"',
    ]


def test_json_lines_have_numbers_and_the_columns_of_their_own_header(home: Home, cli: InProcess) -> None:
    lines = cli("export", changed_run(home.spool_dir).stem, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"timestamp": 1700000000, "process_cpu_usage": 0.5, "process_memory_mib": 100},
        {"timestamp": 1700000001, "process_cpu_usage": 1.5, "process_memory_mib": 101},
        {"timestamp": 1700000009, "process_memory_mib": 55, "gpu": "A, B"},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("7", 7), ("-0.5", -0.5), ("1e3", 1000.0), ("007", "007"), ("nan", "nan"), ("1_0", "1_0"), ("x", "x")],
)
def test_fields_as_json(text: str, expected: object) -> None:
    assert json_value(text) == expected
    assert type(json_value(text)) is type(expected)


def test_parquet_has_types_and_every_row(home: Home, cli: InProcess, tmp_path: Path) -> None:
    file = tmp_path / "run.parquet"
    result = cli("export", changed_run(home.spool_dir).stem, "-o", str(file))  # the format is that of the name
    assert result.exit_code == 0
    table = parquet.read_table(file)
    assert [str(kind) for kind in table.schema.types] == ["timestamp[us, tz=UTC]", "double", "double", "string"]
    assert table.to_pylist()[2] == {
        "timestamp": datetime.fromtimestamp(1700000009, timezone.utc),
        "process_cpu_usage": None,
        "process_memory_mib": 55,
        "gpu": "A, B",
    }
    assert list(tmp_path.glob(".*")) == []


def test_parquet_changes_no_cell_of_an_unknown_column(home: Home, cli: InProcess, tmp_path: Path) -> None:
    path = live_run(home.spool_dir, row_count=0)
    header = b"timestamp,code,grouped,wide,grows,whole,label,huge\n"
    with closing(Spool(path)) as spool:
        spool.append([Batch(header, b"1700000000,007,1_000,18446744073709551615,5,1,,9007199254740993\n")])
        spool.append([Batch(header, b"1700000001,8,2,1,0.5,,x,0.5\n")])
    assert cli("export", path.stem, "-o", str(tmp_path / "run.parquet")).exit_code == 0
    columns = parquet.read_table(tmp_path / "run.parquet").to_pydict()
    assert columns.pop("timestamp")[0].timestamp() == 1700000000
    assert columns == {
        "code": ["007", "8"],
        "grouped": ["1_000", "2"],
        "wide": ["18446744073709551615", "1"],
        "grows": [5.0, 0.5],
        "whole": [1, None],
        "label": ["", "x"],
        "huge": ["9007199254740993", "0.5"],  # beyond what a float holds exactly
    }


def test_parquet_keeps_a_word_in_a_known_column_and_what_stands_beside_it(
    home: Home, cli: InProcess, tmp_path: Path
) -> None:
    path = live_run(home.spool_dir, row_count=0)
    header = b"timestamp,process_memory_mib,process_cpu_usage,process_gpu_usage\n"
    with closing(Spool(path)) as spool:
        spool.append([Batch(header, b"1700000000,1.50,0.5,NA\n"), Batch(header, b"1700000001,unknown,0.25,\n")])
    assert cli("export", path.stem, "-o", str(tmp_path / "run.parquet")).exit_code == 0
    columns = parquet.read_table(tmp_path / "run.parquet").to_pydict()
    assert columns["process_memory_mib"] == ["1.50", "unknown"]
    assert (columns["process_cpu_usage"], columns["process_gpu_usage"]) == ([0.5, 0.25], [None, None])


@pytest.mark.parametrize(("form", "count"), [("csv", 25_000), ("jsonl", 10_000), ("parquet", 25_000)])
def test_memory_does_not_grow_with_the_run(home: Home, cli: InProcess, tmp_path: Path, form: str, count: int) -> None:
    def peak(row_count: int) -> int:
        path = ended_run(home.spool_dir, row_count=row_count, batch_rows=100)
        tracemalloc.start()
        cli("export", path.stem, "-f", form, "-o", str(tmp_path / "out"))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # imports
    small, large = peak(count), peak(3 * count)
    assert large < small * 1.5 + (1 << 20)


def test_rows_that_are_in_s3_only_are_told(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    with closing(Spool(path)) as spool:
        for segment in spool.seal_pending():
            spool.mark_sent(segment, uri="s3://bucket/r/1", etag="e")
        spool.release_sent()
    result = cli("export", path.stem)
    assert result.exit_code == 1
    assert "3 rows are in S3 only" in result.stderr


def test_damaged_rows_are_left_out_and_told(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, row_count=6, batch_rows=2)
    with closing(Spool(path)) as spool, spool.connection.transaction() as db:
        db.execute("UPDATE batch SET csv = replace(csv, '17', '18') WHERE batch_id = 2")
    result = cli("export", path.stem)
    assert result.exit_code == 1
    assert result.stdout_bytes == HEADER + rows(2) + rows(2, first=4)
    assert "2 rows are damaged" in result.stderr


def test_run_without_rows_is_an_empty_file(home: Home, cli: InProcess, tmp_path: Path) -> None:
    path = ended_run(home.spool_dir, row_count=0)
    for form in ("csv", "jsonl", "parquet"):
        assert cli("export", path.stem, "-f", form, "-o", str(tmp_path / form)).exit_code == 0
    assert (tmp_path / "csv").read_bytes() == b""
    assert parquet.read_table(tmp_path / "parquet").num_rows == 0


def test_what_is_no_run_is_a_usage_error(home: Home, cli: InProcess, tmp_path: Path) -> None:
    assert cli("export", "nosuchrun").exit_code == 2
    text = tmp_path / "notes.spool"
    text.write_text("just a text")
    text.chmod(0o600)
    result = cli("export", str(text))
    assert result.exit_code in (1, 2)
    assert str(text) in result.stderr


def test_file_that_cannot_be_written_is_told_and_leaves_nothing(home: Home, cli: InProcess, tmp_path: Path) -> None:
    path = ended_run(home.spool_dir)
    result = cli("export", path.stem, "-o", str(tmp_path / "no" / "such" / "directory.csv"))
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_device_and_pipe_are_written_to_and_not_replaced(home: Home, cli: InProcess, tmp_path: Path) -> None:
    name = ended_run(home.spool_dir, row_count=3).stem
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert cli("export", name, "-o", str(pipe)).exit_code == 0
    assert os.read(reader, 1 << 20) == HEADER + rows(3)
    os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert cli("export", name, "-o", os.devnull).exit_code == 0
    assert stat.S_ISCHR(os.lstat(os.devnull).st_mode)


def test_link_stays_a_link_and_what_it_names_is_replaced_whole(home: Home, cli: InProcess, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "rows.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    assert cli("export", ended_run(home.spool_dir, row_count=3).stem, "-o", str(link)).exit_code == 0
    assert link.is_symlink()
    assert target.read_bytes() == HEADER + rows(3)
    assert list((tmp_path / "elsewhere").iterdir()) == [target]


def test_several_runs_in_one_file_have_the_name_of_each_rows_run(home: Home, cli: InProcess, tmp_path: Path) -> None:
    first, second = changed_run(home.spool_dir), ended_run(home.spool_dir, row_count=1)
    text = cli("export", first.stem, second.stem, "-o", "-").stdout
    assert text.splitlines() == [
        "run,timestamp,process_cpu_usage,process_memory_mib,gpu",
        f"{first.stem},1700000000,0.5,100,",
        f"{first.stem},1700000001,1.5,101,",
        f'{first.stem},1700000009,,55,"A, B"',
        f"{second.stem},1700000000,0.5,100,",
    ]
    assert cli("export", first.stem, second.stem, "-o", str(tmp_path / "all.parquet")).exit_code == 0
    assert parquet.read_table(tmp_path / "all.parquet").column("run").to_pylist() == [first.stem] * 3 + [second.stem]
    assert cli("export", first.stem, second.stem, "-o", str(tmp_path), "-f", "jsonl").exit_code == 0
    assert (tmp_path / f"{first.stem}.jsonl").read_bytes().count(b"\n") == 3
    assert cli("export", first.stem, second.stem, "-f", "html", "-o", str(tmp_path / "x.html")).exit_code == 2


def test_a_row_with_a_line_end_in_it_gets_one_name(home: Home, cli: InProcess) -> None:
    path, other = live_run(home.spool_dir, row_count=0), ended_run(home.spool_dir, row_count=0)
    with closing(Spool(path)) as spool:
        spool.append([Batch(b"a,b\n", b'1,"x\ny"\n2,z\n')])
    text = cli("export", path.stem, other.stem).stdout
    assert text == f'run,a,b\n{path.stem},1,"x\ny"\n{path.stem},2,z\n'


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_follow_goes_on_with_the_rows_that_come_until_the_run_ends(home: Home, tmp_path: Path, form: str) -> None:
    path = live_run(home.spool_dir, row_count=2)
    output = tmp_path / "followed"
    command = [sys.executable, "-m", "streaming", "export", path.stem, "--follow", "-f", form, "-o", str(output)]
    environment = clean_environment(home, new_marker())
    following = subprocess.Popen(command, env=environment)
    try:
        with closing(Spool(path)) as spool:
            expected = 2 + (form == "csv")
            eventually(lambda: output.exists() and output.read_bytes().count(b"\n") == expected)
            spool.append([Batch(HEADER, rows(3, first=2))])
            eventually(lambda: output.read_bytes().count(b"\n") == expected + 3)
            spool.append([Batch(OTHER_HEADER, b'1700000009,55,"A, B"\n')])
            spool.end(exit_code=0, run_status="finished", ended_at=1700000010.0)
        assert following.wait(30) == 0
    finally:
        following.kill()
        following.wait()
    text = output.read_bytes()
    assert text.count(b"\n") == expected + 4 + (form == "csv")
    if form == "csv":
        assert text == HEADER + rows(5) + OTHER_HEADER + b'1700000009,55,"A, B"\n'
    else:
        assert json.loads(text.splitlines()[-1])["gpu"] == "A, B"
