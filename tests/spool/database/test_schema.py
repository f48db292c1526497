"""The tables: exactly ours, told apart from any other file's. (Versions: tests/faults/test_35_versions.py.)"""

import sqlite3
from pathlib import Path

import pytest

from spool import Spool
from spool.database import schema
from spool.errors import SpoolRefused
from tests.support import spools
from tests.support.spools import rows


def test_new_spool_has_exactly_our_tables(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    with spools.raw(path) as connection:
        schema.check(connection, path)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"run", "header", "batch", "segment", "sqlite_sequence"}


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.spool"
    with spools.raw(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(SpoolRefused, match="is not a spool of tracker-stream"):
        Spool(path)


def test_ids_are_given_in_order_without_gaps_even_after_a_rollback(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    insert = "INSERT INTO batch (header_id, row_count, appended_at, sha256, csv) VALUES (1, 1, 0, x'', x'')"
    with spools.raw(path) as connection:
        connection.execute("BEGIN")
        connection.execute(insert)
        connection.execute("ROLLBACK")
        connection.execute(insert)
        assert connection.execute("SELECT batch_id FROM batch").fetchall() == [(1,), (2,)], "a gap means lost rows"


def test_a_spool_has_one_run(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    with spools.raw(path) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE run SET only_row = 2")
