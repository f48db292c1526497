"""Recovery: what is readable of a damaged spool is saved, nothing wrong is, and the run goes on as the same run."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, RunState, SegmentState, Spool, SpoolError, queries, segments
from spool.database import schema
from spool.database.connection import PAGE_BYTES, file_identity
from spool.errors import SpoolDamaged
from spool.recovery import scan, sqlite_pages
from spool.recovery.audit import audit
from spool.recovery.recover import Recovered, recover, recover_file
from tests.support import spools
from tests.support.spools import HEADER, rows


def recovered(path: Path) -> Recovered:
    report = recover_file(path, file_identity(path))
    assert report is not None
    return report


def test_shapes_are_those_of_the_tables() -> None:
    affinities = {"INTEGER": "i", "REAL": "r", "TEXT": "t", "BLOB": "b"}
    with spools.raw(Path(":memory:")) as connection:
        schema.create_tables(connection)
        for table, shape in (("run", scan._RUN), ("batch", scan._BATCH), ("segment", scan._SEGMENT)):
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            wanted = [
                "0" if key else affinities[kind].upper() if not not_null else affinities[kind]
                for _, _, kind, not_null, _, key in columns
            ]
            assert shape == "".join(wanted), table


def test_a_whole_spool_comes_out_of_a_recovery_as_it_went_in(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3), rows(4, 2000), rows(3000, 1, width=100_000)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        spools.send_all(spool)
        spool.append([Batch(b"timestamp,x,y\n", b"1,2,3\n")])
        before, csv, sent = spool.run(), spools.exported(spool), spool.segments(SegmentState.SENT)
    report = recovered(path)
    assert (report.batch_count, report.row_count, report.missing) == (4, 2005, ())
    assert not report.has_lost_run
    assert not report.has_lost_segments
    with closing(Spool(path)) as spool:
        assert spool.run() == before
        assert spools.exported(spool) == csv
        assert spool.segments(SegmentState.SENT) == sent
        spool.append([Batch(HEADER, rows(9))])
        assert [segment.row_count for segment in spool.seal_pending()] == [1, 1]
    assert audit(path) == []


@pytest.mark.parametrize("number", range(1, 12))
def test_any_zeroed_page_costs_only_its_own_rows(tmp_path: Path, number: int) -> None:
    batches = [rows(10 * index, 5, width=60) for index in range(100)]
    path = spools.filled(tmp_path, batches)
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        before = spool.run()
    spools.overwrite_page(path, number)
    report = recovered(path)
    assert report.kept_aside.exists()
    with closing(Spool(path)) as spool:
        kept = [csv for _, csv in queries.exported(spool.connection)]
        assert kept == [batch for batch in batches if batch in kept], "in order, and nothing that was not appended"
        assert len(kept) >= 80
        lost = [index + 1 for index, batch in enumerate(batches) if batch not in kept]
        told = [index for first, last in report.missing for index in range(first, last + 1)]
        assert told == lost
        assert not report.has_lost_run, "its earlier version is in the journal"
        assert spool.run().spool_id == before.spool_id, "so it is registered again as the same run"
    assert audit(path) == ([f"batches {lost[0]} to {lost[-1]}: {segments.MISSING}"] if lost else [])


def test_a_truncated_file_gives_back_what_is_left_of_it(tmp_path: Path) -> None:
    batches = [rows(10 * index, 5, width=60) for index in range(100)]
    path = spools.filled(tmp_path, batches)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 2 // 3 + 1000)
    with pytest.raises(SpoolDamaged):
        Spool(path)
    report = recovered(path)
    assert 0 < report.batch_count < 100
    with closing(Spool(path)) as spool:
        kept = [csv for _, csv in queries.exported(spool.connection)]
        assert kept == [batch for batch in batches if batch in kept]
        assert len(kept) == report.batch_count
        spool.append([Batch(HEADER, rows(5000))])
        ids = spool.connection.query("SELECT batch_id FROM batch ORDER BY batch_id DESC LIMIT 1")
    assert ids == [(101,)], "no number is given twice"


def test_a_file_of_terabytes_that_are_holes_is_read_as_far_as_it_is_written(tmp_path: Path) -> None:
    """Page by page it took hours, so that whoever drained it was killed, and left what it had begun beside it."""
    path = spools.filled(tmp_path, [rows(1, 3), rows(4, 2)])
    spools.overwrite_page(path, 1)
    for huge in (path, spools.journal_of(path)):
        with huge.open("r+b") as file:
            file.truncate(2**42)
    report = recovered(path)
    assert (report.batch_count, report.row_count) == (2, 5)
    assert sorted(each.name for each in tmp_path.rglob("*") if ".replacement-" in each.name) == []


def test_a_recovered_batch_is_never_wrong_however_the_bits_flip(tmp_path: Path) -> None:
    chance = random.Random(4711)
    batches = [rows(10 * index, 3, width=index % 90) for index in range(40)]
    template = spools.filled(tmp_path / "template", batches)
    for attempt in range(60):
        path = tmp_path / f"{attempt}.spool"
        path.write_bytes(template.read_bytes())
        for _ in range(20):
            spools.flip_random_bit(path, chance)
        report = recovered(path)
        with closing(Spool(path)) as spool:
            kept = [csv for _, csv in queries.exported(spool.connection)]
        assert [csv for csv in kept if csv not in batches] == []
        assert len(kept) == report.batch_count


@pytest.mark.parametrize("batch_id", [2, 7, 11])
def test_a_batch_whose_number_is_damaged_has_the_one_between_its_neighbours(tmp_path: Path, batch_id: int) -> None:
    batches = [rows(index, 1) for index in range(12)]
    path = spools.filled(tmp_path, batches)
    spools.flip_bit(path, place_of_number(path, batch_id), 5)  # 7 becomes 39
    report = recovered(path)
    assert (report.batch_count, report.missing) == (12, ())
    with closing(Spool(path)) as spool:
        assert [csv for _, csv in queries.exported(spool.connection)] == batches


def place_of_number(path: Path, batch_id: int) -> int:
    """Where in the file a batch's number is: no checksum covers it."""
    with path.open("rb") as file:
        pages = sqlite_pages.PageFile(file.fileno(), PAGE_BYTES)
        for number, page in pages.leaves(sqlite_pages.TABLE_LEAF):
            for at in sqlite_pages.cell_offsets(page, number=number):
                row_id, start = sqlite_pages.varint(page, at + 1)
                types, _ = sqlite_pages.serial_types(page[start : start + 32])
                if row_id == batch_id and sqlite_pages.is_record_of(types, scan._BATCH):
                    return (number - 1) * PAGE_BYTES + at + 1
    raise AssertionError(f"no batch {batch_id}")


def test_a_lost_header_is_found_in_its_index(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3)])
    spools.overwrite_page(path, spools.root_pages(path)["header"])
    recovered(path)
    with closing(Spool(path)) as spool:
        assert list(queries.exported(spool.connection)) == [(HEADER, rows(1, 3))]


def test_sent_segments_stay_sent_and_are_not_sent_again(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3), rows(4, 3)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        sent = spools.send_all(spool, max_bytes=10)
        spool.append([Batch(HEADER, rows(7))])
    spools.overwrite_page(path, 1)
    recovered(path)
    with closing(Spool(path)) as spool:
        assert spool.segments(SegmentState.SENT) == sent
        assert [segment.seq for segment in spool.seal_pending()] == [sent[-1].seq + 1]


def test_rows_of_lost_segments_are_sealed_again_under_new_numbers(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3), rows(4, 3)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        spools.send_all(spool, max_bytes=10)
    spools.overwrite_page(path, spools.root_pages(path)["segment"])
    spools.journal_of(path).unlink()
    recovered(path)
    with closing(Spool(path)) as spool:
        assert spool.sent_uris() == []
        again = list(spool.seal_pending())
        assert b"".join(spool.csv(segment)[len(HEADER) :] for segment in again) == rows(1, 6)
        assert [segment.seq for segment in again] == [3], "numbers that were given are not given again"


def test_a_gap_among_the_segments_is_sealed_again_in_its_place(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(index) for index in range(1, 6)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        spools.send_all(spool, max_bytes=1)
    with spools.raw(path) as connection:
        connection.execute("DELETE FROM segment WHERE seq IN (2, 3)")
        connection.execute("VACUUM")
    report = recovered(path)
    assert report.has_lost_segments
    with closing(Spool(path)) as spool:
        (again,) = spool.segments(SegmentState.SEALED)
        assert (again.seq, again.first_batch_id, again.last_batch_id) == (2, 2, 3)
        assert spool.csv(again) == HEADER + rows(2, 2)
        spool.mark_sent(again, uri="s3://bucket/run-1/again", etag="etag")
        assert [uri.rpartition("/")[2] for uri in spool.sent_uris()] == ["00000001", "again", "00000004", "00000005"]


def test_without_its_run_record_the_rows_are_recorded_as_a_new_run(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3)])
    with closing(Spool(path)) as spool:
        spools.registered(spool)
        spools.send_all(spool)
        before = spool.run()
    spools.overwrite_page(path, spools.root_pages(path)["run"])
    spools.journal_of(path).unlink()
    report = recovered(path)
    assert report.has_lost_run
    assert "registered as a new one" in str(report)
    with closing(Spool(path)) as spool:
        run = spool.run()
        assert run.state is RunState.OPEN
        assert run.registration is None
        assert run.spool_id != before.spool_id
        assert [segment.row_count for segment in spool.seal_pending()] == [3], "the new run needs all its objects"


def test_the_damaged_file_is_kept_with_its_journal(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3)])
    spools.overwrite_page(path, 3)
    damaged, journal = path.read_bytes(), spools.journal_of(path).read_bytes()
    report = recovered(path)
    assert report.kept_aside.name.startswith(f"{path.name}.damaged-")
    assert report.kept_aside.read_bytes() == damaged
    assert spools.journal_of(report.kept_aside).read_bytes() == journal
    assert report.kept_aside.stat().st_mode & 0o777 == 0o600


def test_a_second_one_finds_the_work_done(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1, 3)])
    identity = file_identity(path)
    assert recover_file(path, identity) is not None
    assert recover_file(path, identity) is None
    assert len(spools.aside(path)) == 1


def test_a_process_that_has_the_old_file_open_goes_on_in_the_new_one(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(1)])
    with closing(Spool(path)) as tracker:
        tracker.append([Batch(HEADER, rows(2))])
        with closing(Spool(path)) as owner:
            assert recover(owner) is not None
        tracker.append([Batch(HEADER, rows(3))])
        assert spools.exported(tracker) == rows(1, 3)
        assert tracker.generation == 1
    with closing(Spool(path)) as spool:
        assert spools.exported(spool) == rows(1, 3)


def test_a_cached_header_does_not_outlive_the_file_it_was_read_from(tmp_path: Path) -> None:
    other = b"timestamp,y\n"
    path = spools.filled(tmp_path, [rows(1)])
    with closing(Spool(path)) as tracker:
        tracker.append([Batch(other, rows(2))])
        for page in (spools.root_pages(path)["header"], spools.root_pages(path)["sqlite_autoindex_header_1"]):
            spools.overwrite_page(path, page)
        spools.journal_of(path).write_bytes(b"")
        assert recover(tracker) is not None
        tracker.append([Batch(other, rows(3))])
        assert list(queries.exported(tracker.connection))[-1] == (other, rows(3))


def test_no_room_for_recovery_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spools.filled(tmp_path, [rows(1, 3)])
    spools.overwrite_page(path, 3)
    before = path.read_bytes()
    tmp_path.chmod(0o700)
    blocked = path.parent / "file"
    blocked.write_bytes(b"")
    with pytest.raises(SpoolError):
        recover_file(blocked / path.name, (0, 0))
    assert path.read_bytes() == before
    assert spools.aside(path) == []
