"""SQL over rows and runs: right answers, and no way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

import streaming
from spool import Batch, Spool
from streaming.errors import BadArgument
from streaming.read.query import Query
from streaming.read.sources import SpoolSource
from tests.support.processes import Home
from tests.support.runs import ended_run, live_run

JOINED = (
    "SELECT run, state, count(*) AS n, max(process_memory_mib) AS peak FROM rows JOIN runs USING (run) GROUP BY ALL"
)


def ask(home: Home, sql: str) -> list[dict[str, object]]:
    return streaming.runs(home.spool_dir).query(sql).to_pylist()


def test_rows_and_runs_are_joined(home: Home) -> None:
    first, second = ended_run(home.spool_dir, row_count=3), live_run(home.spool_dir, row_count=5)
    found = {row["run"]: (row["n"], row["peak"]) for row in ask(home, JOINED)}
    assert found == {first.stem: (3, 102.0), second.stem: (5, 104.0)}


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT count(*) FROM rows", 4),
        ("SELECT count(*) FROM (SELECT * FROM rows)", 4),
        ("SELECT sum(process_cpu_usage) FROM rows WHERE process_memory_mib > 100", 7.5),
        (
            "SELECT a.process_memory_mib FROM rows a JOIN rows b ON a.timestamp > b.timestamp ORDER BY 1 DESC LIMIT 1",
            103.0,
        ),
        ("SELECT count(COLUMNS('process_cpu.*')) FROM rows", 4),
        ("FROM rows SELECT count(label)", 4),
        ("SELECT max(label) FROM rows", "007"),
        ("SELECT count(system_cpu_usage) FROM rows", 0),
        ("SELECT count(*) FROM rows WHERE run IN (SELECT run FROM runs WHERE row_count = 4)", 4),
        ("WITH x AS (SELECT * FROM rows) SELECT typeof(max(timestamp)) FROM x", "TIMESTAMP WITH TIME ZONE"),
        ("SELECT count(*) FROM (DESCRIBE rows)", 34),
        ("SELECT 1", 1),
    ],
)
def test_every_form_of_question_reads_the_columns_that_it_needs(home: Home, sql: str, answer: object) -> None:
    path = live_run(home.spool_dir, row_count=0)
    header = b"timestamp,process_cpu_usage,process_memory_mib,label\n"
    lines = b"".join(b"%d,%d.5,%d,007\n" % (1700000000 + n, n % 4, 100 + n) for n in range(4))
    with closing(Spool(path)) as spool:
        spool.append([Batch(header, lines)])
    (row,) = ask(home, sql)
    assert list(row.values()) == [answer]


def test_the_same_column_of_another_kind_in_another_run_is_held_by_both(home: Home) -> None:
    for cell in (b"5", b"0.5", b"x"):
        with closing(Spool(live_run(home.spool_dir, row_count=0))) as spool:
            spool.append([Batch(b"timestamp,mine\n", b"1700000000," + cell + b"\n")])
    assert {row["mine"] for row in ask(home, "SELECT mine FROM rows")} == {"5", "0.5", "x"}


def ways_out(folder: Path) -> list[str]:
    secret, out = folder / "secret.csv", folder / "out"
    readers = [
        f"{name}('{secret}')" for name in ("read_csv", "read_csv_auto", "read_text", "read_blob", "read_json", "glob")
    ]
    readers += [f"'{secret}'", f"parquet_scan('{secret}')", f"read_parquet('{secret}')", f"sniff_csv('{secret}')"]
    readers += ["read_csv('http://127.0.0.1:1/x.csv')", "'s3://bucket/x.parquet'", "read_text('/proc/self/environ')"]
    readers += [
        "duckdb_secrets()",
        "which_secret('s3://x', 's3')",
        "sqlite_scan('x', 'y')",
        "postgres_scan('', '', '')",
    ]
    readers += [
        "canary",
        "query_table('canary')",
        f"query('SELECT * FROM read_text(''{secret}'')')",
        "iceberg_scan('x')",
    ]
    return [
        *(f"SELECT * FROM {reader}" for reader in readers),
        f"COPY rows TO '{out}'",
        f"COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
        f"COPY runs FROM '{secret}'",
        f"EXPORT DATABASE '{out}'",
        f"IMPORT DATABASE '{folder}'",
        f"ATTACH '{out}.db'",
        "ATTACH 'http://127.0.0.1:1/x.db' AS x (READ_ONLY)",
        "INSTALL httpfs",
        "LOAD httpfs",
        f"LOAD '{secret}'",
        "INSTALL spatial FROM community",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET GLOBAL python_enable_replacements = true",
        "RESET enable_external_access",
        f"SET temp_directory = '{out}'",
        f"SET secret_directory = '{out}'",
        f"SET log_query_path = '{out}'",
        "PRAGMA enable_profiling",
        f"PRAGMA profiling_output = '{out}'",
        "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
        f"CREATE VIEW v AS SELECT * FROM read_text('{secret}')",
        "CREATE TABLE t AS SELECT 1",
        "DROP TABLE runs",
        "INSERT INTO runs SELECT * FROM runs",
        "SELECT 1; SELECT 2",
        f"SELECT 1; COPY (SELECT 1) TO '{out}'",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
        "CALL pragma_version()",
        "PREPARE p AS SELECT 1",
        "CHECKPOINT",
        "",
        "nonsense",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT a.range FROM range(1000000) a, range(1000000) b, range(1000000) c WHERE a.range + b.range + c.range < 0",
    ],
)
def test_a_question_without_end_is_given_up(home: Home, sql: str) -> None:
    """The second of them heard no Ctrl-C either: it went on for as long as it liked."""
    ended_run(home.spool_dir, row_count=1)
    found = streaming.runs(home.spool_dir)
    with Query(found.source, found.facts, timeout_s=0.5) as query, pytest.raises(BadArgument, match="takes longer"):
        query.answer(sql).read_all()


def test_rows_are_read_where_ctrl_c_and_the_time_end_it(home: Home) -> None:
    class Endless(SpoolSource):
        def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
            while True:
                yield from super().tables(name, schema)

    ended_run(home.spool_dir, row_count=1)
    endless = Endless(home.spool_dir)
    with Query(endless, endless.runs(), timeout_s=0.5) as query, pytest.raises(BadArgument, match="takes longer"):
        query.answer("SELECT count(*) FROM rows")


def test_there_is_no_way_out(home: Home, tmp_path: Path) -> None:
    live_run(home.spool_dir, row_count=1)
    (tmp_path / "secret.csv").write_text("a,b\nsecret,1\n")
    canary = pa.table({"secret": ["secret"]})
    found = streaming.runs(home.spool_dir)
    before = sorted(tmp_path.rglob("*"))
    with Query(found.source, found.facts) as query:
        for sql in ways_out(tmp_path):
            with pytest.raises(BadArgument):
                print(sql, query.answer(sql).read_all().to_pylist())
        assert query.answer("SELECT count(*) AS n FROM rows").read_all().to_pylist() == [{"n": 1}]
    assert canary.num_rows == 1
    assert sorted(tmp_path.rglob("*")) == before
