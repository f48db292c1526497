"""Fault 35: an old spool with the new library, and the reverse."""

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from spool import Spool
from spool.database import schema
from spool.database.connection import PAGE_BYTES
from spool.errors import NewerSchema, SpoolRefused
from spool.recovery.audit import audit
from streaming.upload.model import Outcome
from tests.support import oracle, spools
from tests.support.clients import Clients
from tests.support.memory_far_end import MemoryFarEnd, Run
from tests.support.oracle import Evidence, Told
from tests.support.turns import drain_run

FIXTURES = Path(__file__).parent.parent / "spool" / "fixtures"
OLD, NEW = b"timestamp,x\n", b"timestamp,x,y\n"


class NoWait:
    def wait(self, seconds: float) -> None:
        raise AssertionError("nothing should be waited for")

    def has_time(self) -> bool:
        return True


def load(version: str, directory: Path) -> Path:
    """The spool as that version of the library wrote it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / f"{version}.spool"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.executescript((FIXTURES / f"{version}.sql").read_text())
    path.chmod(0o600)
    return path


def test_there_is_a_fixture_for_every_version_there_ever_was() -> None:
    assert sorted(path.stem for path in FIXTURES.glob("*.sql")) == [
        f"version-{number}" for number in range(1, schema.VERSION + 1)
    ]


@pytest.mark.parametrize("version", sorted(path.stem for path in FIXTURES.glob("*.sql")))
def test_fault_35_spool_of_any_version_is_drained(tmp_path: Path, version: str) -> None:
    path = load(version, tmp_path / "spools")
    far_end = MemoryFarEnd()
    prefix = "s3://bucket/run-fixture"
    far_end.runs["fixture"] = Run("run-fixture", prefix)
    _, sent = oracle.object_of(OLD, b"1,a\n2,b\n", 1, prefix)
    far_end.objects[f"{prefix}/00000001-7fc5faec58d2.csv.gz"] = sent
    clients = cast(Clients, SimpleNamespace(service=far_end, store=far_end, token=None))
    assert drain_run(path, clients, NoWait(), api_url="") is Outcome.DELIVERED
    told = Told(OLD, [b"1,a\n2,b\n", b"3,c\n", (NEW, b"4,d,9\n"), (NEW, b"5,e,9\n")])
    evidence = Evidence(far_end.objects, far_end.runs["fixture"].finish, prefix)
    oracle.conserved(evidence, told)
    oracle.ordered(evidence, told)
    oracle.live(evidence, run_status="finished", exit_code=0)
    assert audit(path) == []


def test_fault_35_newer_spool_is_politely_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = load("version-1", tmp_path / "spools")
    with spools.raw(path) as connection:
        connection.execute("PRAGMA user_version = 2")
        connection.execute("ALTER TABLE batch ADD COLUMN tomorrow TEXT")
    before = path.read_bytes()
    with pytest.raises(NewerSchema, match="written by a newer tracker-stream") as refused:
        Spool(path)
    assert "pip install --upgrade tracker-stream" in str(refused.value)
    assert path.read_bytes() == before


def test_fault_35_spool_of_a_version_that_never_was_is_refused(tmp_path: Path) -> None:
    path = load("version-1", tmp_path / "spools")
    with spools.raw(path) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(SpoolRefused, match="no tracker-stream ever wrote"):
        Spool(path)
