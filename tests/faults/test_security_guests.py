"""A spool from elsewhere is delivered from a file of our own, with what proves right of it and nothing else."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Batch, RunState, SegmentState, Spool, queries
from spool.database.connection import file_identity
from spool.errors import SpoolDamaged
from spool.recovery import guest
from spool.recovery.recover import Recovered, surviving_damage
from streaming.upload.model import Outcome
from tests.support import plays, spools
from tests.support.far_end import FarEnd
from tests.support.processes import Home
from tests.support.recorded import Recorded, drain, record
from tests.support.spools import HEADER

ROWS = [b"%d,batch %d\n" % (number, number) for number in range(9)]


def copied(path: Path, directory: Path) -> Path:
    """As somebody gets it: the file and its journal in another directory."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for each in (path, spools.journal_of(path)):
        shutil.copy2(each, directory)
    return directory / path.name


def handed_over(tmp_path: Path, *changes: str) -> Path:
    """A spool with nine batches, the first two of them sealed and sent, changed by hand."""
    with closing(Spool.create(tmp_path / "theirs", plays.new_run())) as spool:
        spools.registered(spool)
        spool.append([Batch(HEADER, each) for each in ROWS[:2]])
        (segment,) = spool.seal_pending()
        uri = f"s3://bucket/run-1/00000001-{segment.sha256[:12]}.csv.gz"
        spool.mark_sent(segment, uri=uri, etag="e")
        spool.append([Batch(HEADER, each) for each in ROWS[2:]])
    path = copied(spool.path, tmp_path / "ours")
    with spools.raw(path) as connection:
        for change in changes:
            connection.execute(change)
    return path


def taken_in(path: Path) -> tuple[Spool, list[Recovered]]:
    reports: list[Recovered] = []
    identity = file_identity(path)
    surviving_damage(path, lambda _: None, report=reports.append)
    assert file_identity(path) != identity, "it is another file"
    return Spool(path), reports


def test_spool_where_its_tracker_wrote_it_is_no_guest(tmp_path: Path, home: Home) -> None:
    path = spools.filled(tmp_path, ROWS)
    identity = file_identity(path)
    surviving_damage(path, lambda _: None, report=lambda _: None)
    assert file_identity(path) == identity


def test_copy_is_taken_in_once_with_everything_that_is_right(tmp_path: Path, home: Home) -> None:
    path = handed_over(tmp_path)
    with closing(Spool(path)) as before:
        known, sent = before.run(), before.segments(SegmentState.SENT)
    spool, reports = taken_in(path)
    with closing(spool):
        assert reports == [], "nothing was left out"
        assert replace(spool.run(), tracker=known.tracker) == known
        assert spool.segments(SegmentState.SENT) == sent
        assert spools.exported(spool) == b"".join(ROWS)
        assert not guest.is_guest(spool)
        assert [each.row_count for each in spool.seal_pending()] == [7]
    identity = file_identity(path)
    surviving_damage(path, lambda _: None, report=lambda _: None)
    assert file_identity(path) == identity, "once"
    again = copied(path, tmp_path / "elsewhere")
    with closing(Spool(again)) as spool:
        assert guest.is_guest(spool), "a copy of the copy is a guest again"


def test_what_fails_its_checksum_is_left_out_and_told_and_the_file_is_kept(tmp_path: Path, home: Home) -> None:
    path = handed_over(tmp_path, "UPDATE batch SET csv = CAST('9,forged' || char(10) AS BLOB) WHERE batch_id = 5")
    spool, (report,) = taken_in(path)
    with closing(spool):
        assert spools.exported(spool) == b"".join(ROWS[:4] + ROWS[5:])
    assert report.missing == ((5, 5),)
    assert report.kept_aside in spools.aside(path)


WORDS = {
    "a file to read": ("UPDATE run SET csv_path = '/etc/passwd'", "csv_path", None),
    "a store": ("UPDATE run SET s3_endpoint_url = 'http://evil'", "s3_endpoint_url", None),
    "a run id that is a path": ("UPDATE run SET run_id = '../../refresh?'", "registration", None),
    "a prefix that is an address": ("UPDATE run SET upload_uri_prefix = 's3://evil.com:80/a'", "registration", None),
    "a prefix that climbs": ("UPDATE run SET upload_uri_prefix = 's3://bucket/../b'", "registration", None),
    "a problem to show": ("UPDATE run SET problem = 'run: rm -rf'", "problem", None),
}


@pytest.mark.parametrize("words", WORDS)
def test_words_that_others_would_act_on_are_not_taken_in(tmp_path: Path, home: Home, words: str) -> None:
    change, name, kept = WORDS[words]
    spool, _ = taken_in(handed_over(tmp_path, change))
    with closing(spool):
        assert getattr(spool.run(), name) == kept


def test_spool_id_that_is_no_plain_name_is_not_taken_in(tmp_path: Path, home: Home) -> None:
    """It becomes a header of the request."""
    spool, _ = taken_in(handed_over(tmp_path, "UPDATE run SET spool_id = 'a' || char(10) || 'Host: evil'"))
    with closing(spool):
        assert spool.run().spool_id.isalnum()


URIS = {
    "somebody else's object": "s3://bucket/run-2/00000001-{}.csv.gz",
    "another number": "s3://bucket/run-1/00000002-{}.csv.gz",
    "another checksum": "s3://bucket/run-1/00000001-000000000000.csv.gz",
}


@pytest.mark.parametrize("uri", URIS)
def test_segment_counts_as_sent_only_under_the_one_name_that_it_can_have(tmp_path: Path, home: Home, uri: str) -> None:
    """The finish names what was sent: it must not name what somebody else stored."""
    path = handed_over(tmp_path)
    with spools.raw(path) as connection:
        ((sha256,),) = connection.execute("SELECT sha256 FROM segment")
        connection.execute("UPDATE segment SET uri = ?", (URIS[uri].format(sha256[:12]),))
    spool, _ = taken_in(path)
    with closing(spool):
        assert spool.sent_uris() == []
        assert spool.segments(SegmentState.SEALED)[0].row_count == 2


def test_rows_that_are_only_said_to_be_elsewhere_are_lost_not_named(tmp_path: Path, home: Home) -> None:
    path = handed_over(
        tmp_path, "UPDATE segment SET uri = 's3://bucket/run-2/x'", "DELETE FROM batch WHERE batch_id < 3"
    )
    spool, (report,) = taken_in(path)
    with closing(spool):
        assert spool.sent_uris() == []
    assert report.missing == ((1, 2),)


def maze(path: Path) -> None:
    """A file of some pages whose table has more rows than anybody can count: its pages name one another."""
    with spools.raw(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'batch'").fetchone()
    count = spools.page_count(path)
    leaf = spools.leaves_holding(path, "batch")[0]
    content = path.read_bytes()
    pages = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    levels = [len(pages) + level + 1 for level in range(9)]  # page numbers
    moved = leaf if leaf != root else levels[-1]
    for child in [*levels[1:], moved]:
        pages.append(interior(child))
    if leaf == root:
        pages[-1] = pages[root - 1]
    pages[root - 1] = interior(levels[0])
    head = bytearray(pages[0])
    head[28:32] = len(pages).to_bytes(4, "big")
    path.write_bytes(bytes(head) + b"".join(pages[1:]))
    assert spools.page_count(path) == count + 9


def interior(child: int) -> bytes:
    """A page of a table's tree with two hundred cells and all of them one child."""
    cells = [child.to_bytes(4, "big") + b"\x01"] * 200
    at, offsets, content = 4096, [], bytearray(4096)
    for cell in cells:
        at -= len(cell)
        content[at : at + len(cell)] = cell
        offsets.append(at)
    content[:12] = (
        b"\x05" + bytes(2) + len(cells).to_bytes(2, "big") + at.to_bytes(2, "big") + b"\0" + child.to_bytes(4, "big")
    )
    content[12 : 12 + 2 * len(cells)] = b"".join(offset.to_bytes(2, "big") for offset in offsets)
    return bytes(content)


def test_small_file_without_end_is_damage(tmp_path: Path, home: Home) -> None:
    path = handed_over(tmp_path)
    maze(path)
    with closing(Spool(path)) as spool, pytest.raises(SpoolDamaged):
        queries.kept_row_count(spool.connection, 9)
    with closing(Spool(path)) as spool, pytest.raises(SpoolDamaged):
        spools.exported(spool)
    reports: list[Recovered] = []
    surviving_damage(path, lambda spool: list(spool.seal_pending()), report=reports.append)
    with closing(Spool(path)) as spool:
        assert spools.exported(spool) == b"".join(ROWS)


def test_guest_is_delivered_as_the_run_that_it_is(tmp_path: Path, far_end: FarEnd, home: Home) -> None:
    """Handed over in the middle of its delivery: what was sent is not sent again, the rest goes, the run is one."""
    original = record(tmp_path / "theirs", far_end, segments=3)
    far_end.down("s3")
    assert drain(original, far_end) is not Outcome.DELIVERED
    far_end.up("s3")
    copy = Recorded(copied(original.path, tmp_path / "ours"), original.told)
    assert drain(copy, far_end) is Outcome.DELIVERED
    assert copy.run().state is RunState.FINISHED
    copy.judge(far_end)
    assert len(far_end.runs) == 1


def test_tracker_that_writes_to_a_file_that_is_taken_in_goes_on_in_the_new_one(tmp_path: Path, home: Home) -> None:
    """A directory that was moved while the run went on looks like one from elsewhere."""
    with closing(Spool.create(tmp_path / "spools", plays.new_run())) as tracker:
        tracker.append([Batch(HEADER, ROWS[0])])
        (tmp_path / "spools" / ".origin").unlink()
        spool, reports = taken_in(tracker.path)
        spool.close()
        assert reports == []
        tracker.append([Batch(HEADER, ROWS[1])])
        assert spools.exported(tracker) == ROWS[0] + ROWS[1]


def test_without_a_key_a_guest_is_taken_in_each_time(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path(__file__)))
    path = handed_over(tmp_path)
    for _ in range(2):
        spool, _ = taken_in(path)
        with closing(spool):
            assert spools.exported(spool) == b"".join(ROWS)
