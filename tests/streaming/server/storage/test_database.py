"""The server's SQLite file: writers that share a COMMIT, and what each of them was told."""

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streaming.server.errors import DatabaseUnavailable
from streaming.server.storage.database import ServerDatabase
from tests.support.processes import ROOT

WRITERS = 12
ODD_ONE = 5


class Withdrawn(Exception):
    """A writer thinks better of it."""


@pytest.fixture
def database(tmp_path: Path) -> ServerDatabase:
    made = ServerDatabase(tmp_path / "server.db")
    with made.transaction() as db:
        db.conn.execute("CREATE TABLE kept (number INTEGER UNIQUE)")
        db.conn.execute("CREATE TABLE other (number REFERENCES kept (number) DEFERRABLE INITIALLY DEFERRED)")
        db.conn.execute("CREATE TABLE full (x)")
        db.conn.execute("CREATE TRIGGER full BEFORE INSERT ON full BEGIN SELECT RAISE(ROLLBACK, 'no room'); END")
    return made


def commits(database: ServerDatabase) -> int:
    """SQLite counts them in the file's header."""
    return int.from_bytes(database._path.read_bytes()[24:28], "big")


def write_together(database: ServerDatabase, first: int, odd: str) -> set[int]:
    """The numbers of those who were told that theirs is kept. All begin while the first one is within its transaction."""
    everybody = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        if number > first:
            everybody.wait(60)
        try:
            with database.transaction() as db:
                if number == first:
                    everybody.wait(60)
                db.conn.execute("INSERT INTO kept VALUES (?)", (number,))
                if number == first + ODD_ONE:
                    misbehave(db, odd)
        except (Withdrawn, DatabaseUnavailable, sqlite3.Error):
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        numbers = range(first, first + WRITERS)
        return {number for number, is_kept in zip(numbers, pool.map(write, numbers), strict=True) if is_kept}


def misbehave(db: Any, how: str) -> None:
    if how == "changes its mind":
        raise Withdrawn
    if how == "cannot be committed":
        db.conn.execute("INSERT INTO other VALUES (-1)")
    if how == "makes SQLite undo all":
        db.conn.execute("INSERT INTO full VALUES (1)")


@pytest.mark.parametrize("odd", ["", "changes its mind", "cannot be committed", "makes SQLite undo all"])
def test_writers_share_a_commit_and_each_is_told_the_truth(database: ServerDatabase, odd: str) -> None:
    deadline, first, is_shared = time.monotonic() + 60, 0, False
    while not is_shared and time.monotonic() < deadline:
        before = commits(database)
        told = write_together(database, first, odd)
        kept = {row["number"] for row in database.rows("SELECT number FROM kept WHERE number >= ?", (first,))}
        assert kept == told
        assert first + ODD_ONE not in kept or not odd
        is_shared = commits(database) - before < len(told) or len(told) < WRITERS - 1
        first += WRITERS
    assert is_shared
    with database.transaction() as db:
        db.conn.execute("INSERT INTO kept VALUES (-2)")  # whatever happened, the next one is served


def test_what_cannot_be_written_is_told_and_keeps_no_other_from_writing(database: ServerDatabase) -> None:
    with pytest.raises(DatabaseUnavailable, match="no such table"), database.transaction() as db:
        db.conn.execute("INSERT INTO missing VALUES (1)")
    with database.transaction() as db:
        db.conn.execute("INSERT INTO kept VALUES (1)")
    assert database.rows("SELECT number FROM kept") == [{"number": 1}]


LOADED = """
import sys
import streaming.server.storage.database
print(*({"pandas", "numpy"} & {name.partition(".")[0] for name in sys.modules}))
import numpy
"""


def test_no_server_waits_for_packages_that_only_those_who_read_rows_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True, timeout=60, cwd=ROOT)
    assert done.stdout == b"\n"
