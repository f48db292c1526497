"""A spool file from somebody else, handed to drain: it gets no token, no other file, no memory, and clear words."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Batch, Spool, SpoolError, key, system
from spool.errors import SpoolRefused
from streaming.collect.csv_tail import CsvFeeder
from streaming.errors import BadArgument
from streaming.read.status import Condition, summarize
from tests.support import oracle, plays, spools
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.processes import Home, clean_environment
from tests.support.spools import HEADER
from tests.support.turns import drain_run

SECRET = "root:x:0:0:a line of a private file,1,2\n"


class NoWait:
    def wait(self, seconds: float) -> None:
        raise AssertionError("nothing should be waited for")

    def has_time(self) -> bool:
        return True


@pytest.fixture
def clients(far_end: FarEnd) -> Iterator[Clients]:
    made = Clients.connect(far_end.token, api_url=far_end.api_url, s3_endpoint_url=far_end.s3_endpoint_url)
    yield made
    made.reset()


def hostile(tmp_path: Path, *changes: str, rows: bytes = b"1,a\n") -> Path:
    """A spool that was changed by hand."""
    path = spools.filled(tmp_path / "spools", [rows])
    with spools.raw(path) as connection:
        connection.execute("UPDATE run SET tracker = json_set(tracker, '$.pid', 4194305)")  # nobody's: it is gone
        for change in changes:
            connection.execute(change)
    return path


def sent_bytes(far_end: FarEnd) -> bytes:
    """Everything that the far end was told of rows, in objects and inline."""
    objects = [row for run in far_end.runs for _, row in oracle.delivered(far_end.evidence(run.run_id))]
    return b"".join(objects) + repr(far_end.journal.requests()).encode()


def drain(path: Path, far_end: FarEnd, clients: Clients) -> None:
    drain_run(path, clients, NoWait(), api_url=far_end.api_url, has_ended=True)


FORGERIES = {
    "of another host": {"$.host": "elsewhere"},
    "of this host, this boot, this pid namespace": {},
    "with a proof that is none": {"$.proof": "0" * 64},
    "with no proof": {"$.proof": ""},
}


@pytest.mark.parametrize("has_rows", [True, False])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_private_file_that_a_handed_over_spool_names_is_not_read(
    tmp_path: Path, far_end: FarEnd, clients: Clients, home: Home, forgery: str, has_rows: bool
) -> None:
    """Host facts, boot id and namespace are for everybody to read, the token may be a team's: none of them proves it."""
    private = tmp_path / "private"
    private.write_text(SECRET)
    path = forged(tmp_path / "spools", private, far_end.token, SECRET.encode() if has_rows else b"", home)
    with spools.raw(path) as connection:
        for place, value in {"$.pid": 4194305, **FORGERIES[forgery]}.items():
            connection.execute("UPDATE run SET tracker = json_set(tracker, ?, ?)", (place, value))
    private.write_text(SECRET + "hunter2\n")
    drain(path, far_end, clients)
    assert b"hunter2" not in sent_bytes(far_end)
    assert far_end.run().finish is not None


def forged(directory: Path, private: Path, token: str, header: bytes, home: Home) -> Path:
    """A spool of somebody with another key, who knows everything else."""
    victims_key = home.path / "victims-key"
    key_path = key.path()
    assert key_path is not None
    assert key.proof([]), "the victim has a key"
    key_path.rename(victims_key)
    with closing(Spool.create(directory, plays.new_run(token=token, csv_path=private))) as spool:
        if header:
            spool.append([Batch(header, b"1,a\n")])
    victims_key.replace(key_path)
    return spool.path


CHANGES = {
    "another file": "UPDATE run SET csv_path = :other",
    "another run": "UPDATE run SET spool_id = 'f00'",
    "another service": "UPDATE run SET api_url = 'http://127.0.0.1:9'",
    "another process": "UPDATE run SET tracker = json_set(tracker, '$.started_at', '1')",
}


@pytest.mark.parametrize("change", CHANGES)
def test_own_spool_that_somebody_changed_is_no_longer_proven(tmp_path: Path, home: Home, change: str) -> None:
    run = plays.new_run(csv_path=tmp_path / "rows.csv")
    with closing(Spool.create(tmp_path / "spools", run)) as spool:
        assert spool.is_own()
        spool.take_over(system.identify(1))
        assert spool.is_own(), "whoever takes over proves it anew"
        spool.unpark()
        assert spool.is_own(), "a new spool id, too"
        spool.readdress("http://127.0.0.1:1", None)
        assert spool.is_own(), "and another service, by the user's word"
        with spool.connection.transaction() as db:
            db.execute(CHANGES[change], {"other": "/etc/passwd"} if ":other" in CHANGES[change] else {})
        assert not spool.is_own()
        spool.take_over(system.identify(os.getpid()))
        spool.unpark()
        assert not spool.is_own(), "what is not proven is not made so on the way"


def test_csv_of_an_own_run_is_taken_over_wherever_the_key_is(
    tmp_path: Path, far_end: FarEnd, clients: Clients, home: Home
) -> None:
    csv_path = tmp_path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        CsvFeeder(spool, csv_path).take()
        spool.take_over(replace(system.identify(4194305), host="another host with the same home"))
    csv_path.write_bytes(HEADER + b"1,a\n2,b\n")
    drain(spool.path, far_end, clients)
    assert b"".join(rows for _, rows in oracle.delivered(far_end.evidence())) == b"1,a\n2,b\n"


def test_file_that_took_the_place_of_the_csv_is_not_read(
    tmp_path: Path, far_end: FarEnd, clients: Clients, home: Home
) -> None:
    csv_path, private = tmp_path / "rows.csv", tmp_path / "private"
    csv_path.write_bytes(HEADER + b"1,a\n")
    private.write_text(SECRET + "hunter2\n")
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        CsvFeeder(spool, csv_path).take()
        spool.take_over(system.identify(4194305))
    csv_path.unlink()
    csv_path.symlink_to(private)
    drain(spool.path, far_end, clients)
    assert b"hunter2" not in sent_bytes(far_end)
    assert b"1,a" in sent_bytes(far_end)


@pytest.mark.parametrize("is_copy", [False, True])
def test_csv_of_a_run_without_rows_is_taken_over_only_from_where_it_was_recorded(
    tmp_path: Path, far_end: FarEnd, clients: Clients, home: Home, is_copy: bool
) -> None:
    """A copy of an own run, its rows taken out, would send whatever lies at the path by now."""
    csv_path = tmp_path / "rows.csv"
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        spool.take_over(system.identify(4194305))
        path = spool.path
    csv_path.write_bytes(HEADER + b"1,hunter2\n")
    if is_copy:
        handed_over = tmp_path / "handed-over"
        handed_over.mkdir(mode=0o700)
        path = Path(shutil.copy2(path, handed_over))
    drain(path, far_end, clients)
    assert (b"hunter2" in sent_bytes(far_end)) is not is_copy
    assert far_end.run().finish is not None


@pytest.mark.parametrize("content", ["a device", "a pipe", "another user's file", "a directory"])
def test_csv_path_that_is_no_file_of_ours_is_not_read(
    tmp_path: Path, far_end: FarEnd, clients: Clients, content: str
) -> None:
    strange = tmp_path / "strange"
    if content == "a device":
        strange = Path("/dev/zero")
    elif content == "a pipe":
        os.mkfifo(strange)
    elif content == "a directory":
        strange.mkdir()
    else:
        strange.write_bytes(HEADER + b"9,theirs\n")
        if os.geteuid() != 0:
            pytest.skip("only root can give a file to another user")
        os.chown(strange, 65534, 65534)
    with closing(Spool.create(tmp_path / "spools", plays.new_run(token=far_end.token, csv_path=strange))) as spool:
        path = spool.path
    with spools.raw(path) as connection:
        connection.execute("UPDATE run SET tracker = json_set(tracker, '$.pid', 4194305)")
    drain(path, far_end, clients)
    assert b"theirs" not in sent_bytes(far_end)
    assert far_end.run().finish is not None


def test_token_does_not_go_where_a_foreign_spool_says(tmp_path: Path, far_end: FarEnd, clients: Clients) -> None:
    with FarEnd() as evil:
        path = hostile(
            tmp_path, f"UPDATE run SET api_url = '{evil.api_url}', s3_endpoint_url = '{evil.s3_endpoint_url}'"
        )
        with pytest.raises(BadArgument, match="was recorded for"):
            drain(path, far_end, clients)
        assert evil.journal.count() == 0
    assert far_end.journal.count() == 0


def test_s3_endpoint_of_a_foreign_spool_is_not_used(tmp_path: Path, far_end: FarEnd, clients: Clients) -> None:
    with FarEnd() as evil:
        path = hostile(tmp_path, f"UPDATE run SET s3_endpoint_url = '{evil.s3_endpoint_url}'", rows=b"1,a\n" * 400_000)
        drain(path, far_end, clients)
        assert evil.journal.count() == 0
    assert far_end.run().finish is not None


@pytest.mark.parametrize(
    "command", [["status"], ["drain"], ["clean", "--yes"], ["export", "-o", "rows.csv"], ["doctor"]]
)
def test_no_command_makes_sqlite_delete_a_file_that_a_journal_names(
    tmp_path: Path, far_end: FarEnd, home: Home, marker: str, command: list[str]
) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("four years of work")
    path = hostile(tmp_path)
    spools.plant_super_journal(path, thesis)
    environment = clean_environment(home, marker, **far_end.environment(), TRACKER_STREAM_DIR=str(path.parent))
    named = [path.stem] if command[0] in ("export", "drain") else []
    words = [sys.executable, "-m", "streaming", *command, *named]
    done = subprocess.run(words, env=environment, cwd=home.path, capture_output=True, text=True, timeout=60)
    assert thesis.read_text() == "four years of work"
    assert "Traceback" not in done.stderr
    if command[0] in ("status", "export", "drain"):
        assert "names another file" in done.stdout + done.stderr


SCHEMAS = {
    "trigger": "CREATE TRIGGER planted AFTER UPDATE ON run BEGIN DELETE FROM batch; END",
    "view": "CREATE VIEW planted AS SELECT * FROM run",
    "table": "CREATE TABLE planted (x)",
    "index": "CREATE INDEX planted ON batch (appended_at)",
    "column": "ALTER TABLE run ADD COLUMN planted TEXT",
    "missing": "DROP TABLE segment",
}


@pytest.mark.parametrize("planted", SCHEMAS)
def test_other_tables_than_ours_are_refused(tmp_path: Path, planted: str) -> None:
    path = hostile(tmp_path, SCHEMAS[planted])
    with pytest.raises(SpoolRefused, match="has other tables than a spool has"):
        Spool(path)


VALUES = {
    "metadata is no JSON": "UPDATE run SET metadata = 'not JSON'",
    "metadata is a list": "UPDATE run SET metadata = '[1]'",
    "tracker is no tracker": "UPDATE run SET tracker = '{}'",
    "tracker's pid is a text": "UPDATE run SET tracker = json_set(tracker, '$.pid', 'x')",
    "state is unknown": "UPDATE run SET state = 'levitating'",
    "start is a text": "UPDATE run SET started_at = 'yesterday'",
    "start is infinite": "UPDATE run SET started_at = 9e999",
    "start is beyond the calendar": "UPDATE run SET started_at = 1e300",
    "end is infinite": "UPDATE run SET state = 'ended', run_status = 'failed', ended_at = -9e999",
    "spool id is a blob": "UPDATE run SET spool_id = x'00'",
    "exit code is a text": "UPDATE run SET exit_code = 'zero'",
    "segment with negative counts": (
        "INSERT INTO segment VALUES (1, 1, 1, 1, -5, 9, 'x', 'sealed', 0, NULL, NULL, NULL, 0, NULL)"
    ),
    "segment in an unknown state": (
        "INSERT INTO segment VALUES (1, 1, 1, 1, 5, 9, 'x', 'lost', 0, NULL, NULL, NULL, 0, NULL)"
    ),
    "segment of another universe": (
        "INSERT INTO segment VALUES (1, 'a', 'b', 'c', 'd', 'e', 'x', 'sealed', 'f', NULL, NULL, NULL, 0, NULL)"
    ),
    "metadata is nested deeper than anybody can read": (
        f"UPDATE run SET metadata = '{{\"a\":{'[' * 200_000}{']' * 200_000}}}'"
    ),
    "metadata is nested as deep as it can be read": f"UPDATE run SET metadata = '{{\"a\":{'[' * 800}{']' * 800}}}'",
    "path with a zero byte": "UPDATE run SET csv_path = 'a' || char(0) || 'b'",
    "api url that is no text": "UPDATE run SET api_url = x'ff'",
    "metadata that is no text": "UPDATE run SET metadata = CAST(x'7bff7d' AS TEXT)",
    "batch with a text": "UPDATE batch SET csv = '1,a' || char(10)",
    "batch with negative rows": "UPDATE batch SET row_count = -7",
    "batch under no header": "UPDATE batch SET header_id = 99",
    "header that is a number": "UPDATE header SET csv = 7",
    "batch with infinite rows": "UPDATE batch SET row_count = 9e999",
    "batch with too many rows": "UPDATE batch SET row_count = 9223372036854775807",
    "batch appended at no time": "UPDATE batch SET appended_at = 'x'",
    "batch at no place in the CSV": "UPDATE batch SET csv_offset = 'x'",
    "header that is a large number": "UPDATE header SET csv = 9e15",
    "segment up to the largest number": (
        "INSERT INTO segment VALUES (1, 1, 9223372036854775807, 1, 5, 9, 'x', 'sealed', 0, NULL, NULL, NULL, 0, NULL)"
    ),
    "no run": "DELETE FROM run",
}
DAMAGED_BATCHES = {name for name in VALUES if name.startswith(("batch", "header"))} - {"batch at no place in the CSV"}


@pytest.mark.parametrize("nonsense", VALUES)
def test_values_that_make_no_sense_are_damage_and_the_rows_are_what_their_checksum_says(
    tmp_path: Path, far_end: FarEnd, clients: Clients, nonsense: str
) -> None:
    path = hostile(tmp_path, VALUES[nonsense])
    drain(path, far_end, clients)
    assert (b"1,a" in sent_bytes(far_end)) != (nonsense in DAMAGED_BATCHES), "verified rows go, and no others"
    summary = summarize(path)
    assert summary.condition in (Condition.DELIVERED, Condition.DAMAGED)
    assert len(str(summary.problem)) < 600


def test_command_says_in_one_line_what_is_wrong_with_a_hostile_spool(
    tmp_path: Path, far_end: FarEnd, home: Home, marker: str
) -> None:
    environment = clean_environment(home, marker, **far_end.environment())
    for number, change in enumerate([SCHEMAS["trigger"], "PRAGMA user_version = 7", "PRAGMA application_id = 7"]):
        path = hostile(tmp_path / str(number), change)
        words = [sys.executable, "-m", "streaming", "drain", str(path), "--timeout", "20"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert path.stem in done.stderr + done.stdout


def test_giant_values_take_no_memory(tmp_path: Path, far_end: FarEnd, home: Home, marker: str) -> None:
    giant = 400 << 20
    path = hostile(tmp_path, f"UPDATE batch SET csv = zeroblob({giant})")
    environment = clean_environment(home, marker, **far_end.environment())
    script = (
        "import json, sys\n"
        "from spool import Spool, SpoolError\n"
        "try:\n    list(Spool(__import__('pathlib').Path(sys.argv[1])).seal_pending()); said = 'sealed'\n"
        "except SpoolError as error: said = str(error)\n"
        "status = open('/proc/self/status').read()\n"  # ru_maxrss would be inherited from the process that forked this one
        "print(json.dumps([said, int(status.partition('VmHWM:')[2].split()[0])]))\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
    said, peak_kib = json.loads(done.stdout)
    if sys.version_info >= (3, 11):  # sqlite3 has no setlimit before
        assert "too big" in said
        assert peak_kib < 200 << 10
    path.unlink()


def test_hostile_functions_of_the_schema_are_not_trusted(tmp_path: Path) -> None:
    path = spools.filled(tmp_path / "spools", [b"1,a\n"])
    with closing(Spool(path)) as spool:
        assert spool.connection.query("PRAGMA trusted_schema") == [(0,)]
        assert spool.connection.query("PRAGMA cell_size_check") == [(1,)]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"\0" * 8192, b"not a database at all" * 500])
def test_file_that_is_no_spool_is_refused_and_kept(
    tmp_path: Path, far_end: FarEnd, clients: Clients, content: bytes
) -> None:
    place = tmp_path / "spools"
    place.mkdir(mode=0o700)
    path = place / "strange.spool"
    path.write_bytes(content)
    with pytest.raises(SpoolError):
        drain(path, far_end, clients)
    assert path.read_bytes() == content
    assert far_end.journal.count() == 0
