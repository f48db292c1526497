"""The one way into the database: pragmas, translated errors, replaced files, forks, and what an append costs."""

import os
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, NewRun, Registration, RunState, SegmentState, Spool, queries
from spool.database import connection
from spool.database.connection import Connection, translated
from spool.errors import ForkedSpool, SpoolDamaged, SpoolError, SpoolFull, SpoolRefused, SpoolUnavailable
from tests.support import plays, spools, tracing
from tests.support.nursery import Nursery, order
from tests.support.processes import Home, clean_environment, new_marker, start_script
from tests.support.spools import HEADER, rows


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool.create(tmp_path / "spools", plays.new_run())) as made:
        yield made


def test_journal_is_a_rollback_journal_with_the_strongest_sync(spool: Spool) -> None:
    def pragma(name: str) -> object:
        return spool.connection.query(f"PRAGMA {name}")[0][0]

    assert pragma("journal_mode") == "persist", "never WAL: SQLite before 3.51.3 can corrupt it"
    assert pragma("synchronous") == 3
    assert pragma("fullfsync") == 1
    assert pragma("page_size") == 4096
    assert pragma("trusted_schema") == 0
    assert pragma("secure_delete") == 0
    assert not list(spool.path.parent.glob("*-wal"))


CODES = {
    "SQLITE_BUSY": SpoolUnavailable,
    "SQLITE_LOCKED": SpoolUnavailable,
    "SQLITE_IOERR_FSYNC": SpoolUnavailable,
    "SQLITE_IOERR_WRITE": SpoolFull,
    "SQLITE_FULL": SpoolFull,
    "SQLITE_CORRUPT_VTAB": SpoolDamaged,
    "SQLITE_NOTADB": SpoolDamaged,
    "SQLITE_CANTOPEN_ISDIR": SpoolUnavailable,
    "SQLITE_READONLY_DIRECTORY": SpoolUnavailable,
    "SQLITE_CONSTRAINT": SpoolRefused,
    "SQLITE_ERROR": SpoolRefused,
}


@pytest.mark.parametrize("name", CODES)
@pytest.mark.skipif(not hasattr(sqlite3, "SQLITE_BUSY"), reason="sqlite3 tells no codes before Python 3.11")
def test_every_code_of_sqlite_becomes_an_error_of_ours(name: str) -> None:
    foreign = sqlite3.OperationalError("whatever")
    foreign.sqlite_errorcode = getattr(sqlite3, name)
    with pytest.raises(CODES[name]) as ours, translated(Path("a.spool")):
        raise foreign
    assert ours.value.__cause__ is foreign
    assert ours.value.path == Path("a.spool")
    assert "a.spool" in str(ours.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database or disk is full", SpoolFull),
        ("database disk image is malformed", SpoolDamaged),
        ("file is not a database", SpoolDamaged),
        ("database is locked", SpoolUnavailable),
        ("disk I/O error", SpoolUnavailable),
    ],
)
def test_without_codes_the_fixed_texts_tell(text: str, kind: type[SpoolError]) -> None:
    with pytest.raises(kind), translated(Path("a.spool")):
        raise sqlite3.OperationalError(text)


def test_transaction_that_fails_leaves_no_trace(spool: Spool) -> None:
    def fail() -> None:
        with spool.connection.transaction() as db:
            db.execute("DELETE FROM run")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert spool.run().state is RunState.OPEN


def test_threads_take_turns(spool: Spool) -> None:
    def append(first: int) -> None:
        for number in range(first, first + 20):
            spool.append([Batch(HEADER, rows(number))])

    threads = [threading.Thread(target=append, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert queries.counts(spool.connection).recorded == 80


def test_locked_spool_is_unavailable_and_not_for_ever(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    with closing(Spool(spool.path)) as patient, spools.raw(spool.path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolUnavailable, match="locked"):
            patient.append([Batch(HEADER, rows(0))])
        other.execute("ROLLBACK")
        patient.append([Batch(HEADER, rows(0))])


def test_file_put_in_its_place_is_followed(spool: Spool) -> None:
    spool.append([Batch(HEADER, rows(0))])
    content = spool.path.read_bytes()
    spool.append([Batch(HEADER, rows(1))])
    copy = spool.path.with_name("copy")
    copy.write_bytes(content)
    spools.journal_of(spool.path).unlink()
    os.replace(copy, spool.path)
    assert spools.exported(spool) == rows(0)
    assert spool.generation == 1


def test_close_is_harmless_twice(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    opened = Connection(path)
    opened.close()
    opened.close()


# -- forks -------------------------------------------------------------------------------------------------------------


def in_fork(action: str, spool: Spool) -> int:
    """Exit code of a forked copy that does one thing to the inherited spool: 42 if it was refused."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            {"append": lambda: spool.append([Batch(HEADER, rows(9))]), "read": spool.run, "close": spool.close}[
                action
            ]()
            code = 0
        except ForkedSpool:
            code = 42
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("action", "code"), [("append", 42), ("read", 42), ("close", 0)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_copy_may_not_touch_the_parents_spool(spool: Spool, action: str, code: int) -> None:
    spool.append([Batch(HEADER, rows(0))])
    assert in_fork(action, spool) == code
    spool.append([Batch(HEADER, rows(1))])
    assert spools.exported(spool) == rows(0, 2)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_that_ends_amid_the_parents_transaction_does_not_roll_it_back(spool: Spool) -> None:
    with spool.connection.transaction() as db:
        db.execute("UPDATE run SET problem = 'kept'")
        pid = os.fork()
        if pid == 0:
            import gc

            gc.collect()
            os._exit(0)
        os.waitpid(pid, 0)
    assert spool.run().problem == "kept"


# -- what it costs, without a clock ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    home = Home.below(tmp_path_factory.mktemp("nursery"))
    with Nursery.open(clean_environment(home, new_marker())) as made:
        yield made


def test_append_is_one_transaction_of_five_syncs_and_few_calls(nursery: Nursery, tmp_path: Path) -> None:
    tracing.require_strace()
    with closing(Spool.create(tmp_path / "spools", plays.new_run())) as spool:
        spool.append([plays.batch_of(0)])
    counts = {}
    for until in (2, 3):
        doing = order("append", spool.path, acks=str(tmp_path / f"acks-{until}"), batches=(1, until))
        tracing.run_traced(nursery, doing, tmp_path / "trace", options=[]).require_success()
        counts[until] = Counter(call.name for call in tracing.calls(tmp_path / "trace"))
    of_one = counts[3] - counts[2]
    syncs = of_one["fsync"] + of_one["fdatasync"]
    assert syncs == 5, "journal, its directory, its page count, the database, the zeroed journal header"
    assert sum(of_one.values()) <= 80, of_one
    assert not set(of_one) & {"rename", "unlink", "ftruncate", "mmap"}, "the journal persists"


# -- no query walks the whole run --------------------------------------------------------------------------------------

WALKS_ON_PURPOSE = ("DELETE FROM batch WHERE batch_id IN",)  # its inner query is looked at


def executed_statements(tmp_path: Path) -> set[str]:
    """Every statement that a run's life executes, each function of the spool being called."""
    statements: set[str] = set()
    new = NewRun(tracker=plays.new_run().tracker, started_at=1e9, token="t", host_info=None, cloud_info=None)
    with closing(Spool.create(tmp_path / "spools", new)) as spool:
        spool.connection._db.set_trace_callback(statements.add)
        for number in range(4):
            spool.append([Batch(HEADER, rows(number))], csv_offset=number)
        spool.register(Registration("run-1", "s3://bucket/run-1"))
        spool.describe(host_info={}, cloud_info={})
        first, second, third, *_ = spool.seal_pending(max_bytes=1)
        spool.csv(first)
        spool.mark_sent(first, uri="s3://bucket/run-1/1", etag="e")
        spool.recut(second)
        spool.count_refusal(third, "x")
        spool.reject(third, "x")
        spool.retry_rejected()
        for state in SegmentState:
            spool.segments(state)
        spool.append([Batch(HEADER, rows(9))])
        for ask in (
            queries.backlog,
            queries.counts,
            queries.last_append_at,
            queries.pending_csv,
            queries.newest_rows,
        ):
            ask(spool.connection)
        for question in ("sent_uris", "last_sent", "has_segments", "last_header", "csv_offset", "run"):
            getattr(spool, question)()
        list(queries.exported(spool.connection))
        spool.is_meant_for("t")
        spool.note_problem("x", cause="y")
        spool.release_sent()
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        spool.finish({})
        spool.park("x")
        spool.unpark()
        spool.take_over(new.tracker)
        spool.connection._db.set_trace_callback(None)
    return {each for each in statements if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)", each)}


def test_no_statement_walks_over_all_batches(tmp_path: Path) -> None:
    statements = executed_statements(tmp_path)
    assert len(statements) > 40
    path = spools.filled(tmp_path / "other", [rows(0)])
    with spools.raw(path) as db:
        plans = {each: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {each}")] for each in statements}
    walking = {each: plan for each, plan in plans.items() if any(re.match(r"SCAN (batch|b)\b", step) for step in plan)}
    assert walking == {}


REPLACING = """
import sys
from pathlib import Path
from spool import system
from spool.recovery import replace
from spool.database.connection import file_identity
path = Path(sys.argv[1])
with replace.exclusively(path, file_identity(path)) as descriptor, replace.new_file(path) as new:
    system.copy_file(descriptor, new)
    print("locked", flush=True)
    sys.stdin.readline()
    replace.put_in_place(new, path)
"""


def test_append_that_waits_while_the_file_is_replaced_goes_into_the_new_one(
    spool: Spool, home: Home, marker: str
) -> None:
    with start_script(REPLACING, clean_environment(home, marker), str(spool.path), stdin=True) as replacer:
        assert replacer.read_line() == "locked"
        appending = threading.Thread(target=spool.append, args=([Batch(HEADER, rows(1))],))
        appending.start()
        appending.join(0.3)  # long enough to be waiting for the lock; if it is not yet, it follows all the more
        replacer.say("go on")
        assert replacer.wait(30).exit_code == 0
        appending.join(30)
    with closing(Spool(spool.path)) as new:
        assert spools.exported(new) == rows(1)
    assert spool.generation == 1
