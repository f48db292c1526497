"""`query`: SQL on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from pyarrow import parquet

from tests.streaming.cli.conftest import AsProgram, InProcess
from tests.support.processes import Home
from tests.support.runs import ended_run


def test_the_command_prints_a_table_and_writes_the_other_formats(
    home: Home, program: AsProgram, cli: InProcess, tmp_path: Path
) -> None:
    path = ended_run(home.spool_dir, row_count=3)
    table = program("query", "SELECT run, max(process_memory_mib) AS peak FROM rows GROUP BY 1")
    assert (table.exit_code, table.stdout.decode().split()) == (0, ["run", "peak", path.stem, "102"])
    sql = "SELECT process_memory_mib AS mib, 'a,b' AS text FROM rows ORDER BY 1"
    assert cli("query", sql, "-f", "csv").stdout == 'mib,text\n100.0,"a,b"\n101.0,"a,b"\n102.0,"a,b"\n'
    lines = cli("query", sql, "-f", "json", "--from", str(home.spool_dir)).stdout.splitlines()
    assert [json.loads(line)["mib"] for line in lines] == [100.0, 101.0, 102.0]
    assert cli("query", sql, "-f", "parquet", "-o", str(tmp_path / "x.parquet")).exit_code == 0
    assert parquet.read_table(tmp_path / "x.parquet").column("mib").to_pylist() == [100.0, 101.0, 102.0]
    wrong = cli("query", "SELECT nonsense FROM rows")
    assert wrong.exit_code == 2
    assert "nonsense" in wrong.stderr
    assert "process_memory_mib" in cli("query", "--help").stdout
    endless = cli("query", "SELECT 1 FROM range(1000000000000)")
    assert (endless.exit_code, endless.stdout.count("\n")) == (0, 10_001)
    assert "only the first 10,000 rows are shown" in endless.stderr


def test_runs_are_looked_for_where_the_users_settings_keep_them(home: Home, program: AsProgram, tmp_path: Path) -> None:
    path = ended_run(tmp_path / "kept", row_count=2)
    settings = home.path / ".config" / "tracker-stream" / "tracker-stream.toml"
    settings.parent.mkdir(parents=True, mode=0o700)
    settings.write_text(f'spool_dir = "{tmp_path}/kept"\n')
    asked = program("query", "SELECT run FROM runs", "-f", "csv", TRACKER_STREAM_DIR="")
    assert (asked.exit_code, asked.stdout) == (0, f"run\n{path.stem}\n".encode())
