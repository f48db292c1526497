"""The spool's operations: what each changes, what it refuses, and what it never touches."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import (
    Batch,
    NewRun,
    Registration,
    RunState,
    SegmentState,
    Spool,
    Tracker,
    directory,
    queries,
    segments,
    system,
)
from spool.database.connection import PAGE_BYTES, file_identity
from spool.errors import RunEnded, SpoolDamaged, SpoolFull, SpoolUnavailable
from spool.recovery.audit import audit
from spool.recovery.recover import recover_file
from tests.support import plays, spools
from tests.support.spools import HEADER, REGISTRATION, rows

OTHER = b"timestamp,x,y\n"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool.create(tmp_path / "spools", plays.new_run(), clock=lambda: 1e9)) as made:
        yield made


def append(spool: Spool, *entries: bytes, header: bytes = HEADER) -> None:
    for entry in entries:
        spool.append([Batch(header, entry)])


def test_new_spool_holds_its_run_and_nothing_else(tmp_path: Path) -> None:
    new = plays.new_run(token="a token", csv_path=tmp_path / "rows.csv")
    with closing(Spool.create(tmp_path / "spools", new)) as spool:
        run = spool.run()
        assert run.state is RunState.OPEN
        assert replace(run.tracker, proof="", file_mark="") == new.tracker
        assert run.csv_path == str(tmp_path / "rows.csv")
        assert run.registration is None
        assert not spool.has_segments()
        assert spool.last_header() is spool.last_sent() is None
        assert (spool.csv_offset(), spool.sent_uris()) == (0, [])
        assert list(spool.seal_pending()) == []


def test_token_is_recognised_and_not_held(tmp_path: Path) -> None:
    with closing(Spool.create(tmp_path, plays.new_run(token="a-token-of-mine"))) as spool:
        assert spool.is_meant_for("a-token-of-mine")
        assert not spool.is_meant_for("another")
        assert b"a-token-of-mine" not in spool.path.read_bytes()
    with closing(Spool.create(tmp_path, plays.new_run(token=""))) as spool:
        assert not spool.is_meant_for("")


def test_two_spools_with_one_token_have_different_fingerprints(tmp_path: Path) -> None:
    prints = set()
    for _ in range(2):
        with closing(Spool.create(tmp_path, plays.new_run(token="same"))) as spool:
            prints.add(spool.connection.query("SELECT token_fingerprint FROM run")[0])
    assert len(prints) == 2


def test_batches_are_sealed_by_header_and_size_in_order(spool: Spool) -> None:
    append(spool, rows(0, 2), rows(2, 2))
    append(spool, rows(4), rows(5), header=OTHER)
    append(spool, rows(6))
    segments = list(spool.seal_pending())
    assert [(each.seq, each.first_batch_id, each.last_batch_id) for each in segments] == [
        (1, 1, 2),
        (2, 3, 4),
        (3, 5, 5),
    ]
    assert [spool.csv(each) for each in segments] == [HEADER + rows(0, 4), OTHER + rows(4, 2), HEADER + rows(6)]


def test_segment_holds_at_most_the_given_bytes_or_one_larger_batch(spool: Spool) -> None:
    append(spool, b"1\n" * 10, b"2\n" * 10, b"3\n" * 100, b"4\n")
    segments = list(spool.seal_pending(max_bytes=40))
    assert [each.row_count for each in segments] == [20, 100, 1]


def test_sealed_segment_never_changes_whatever_is_appended(spool: Spool) -> None:
    append(spool, rows(0))
    (first,) = spool.seal_pending()
    append(spool, rows(1))
    again, second = spool.seal_pending()
    assert again == first
    assert spool.csv(second) == HEADER + rows(1)


def test_rows_appended_while_sealing_wait_for_the_next_time(spool: Spool) -> None:
    append(spool, rows(0))
    sealing = spool.seal_pending()
    next(sealing)
    append(spool, rows(1))
    assert list(sealing) == []
    assert len(list(spool.seal_pending())) == 2


def test_two_owners_at_once_seal_each_batch_once(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    with closing(Spool(spool.path)) as other:
        ours, theirs = spool.seal_pending(max_bytes=1), other.seal_pending(max_bytes=1)
        sealed = [next(ours), next(theirs), *ours, *theirs]
    assert {(each.first_batch_id, each.last_batch_id) for each in sealed} == {(1, 1), (2, 2)}
    assert spool.connection.query("SELECT count(*) FROM segment") == [(2,)]


def test_mark_sent_keeps_uri_and_time_and_is_harmless_twice(spool: Spool) -> None:
    append(spool, rows(0))
    (segment,) = spool.seal_pending()
    for _ in range(2):
        spool.mark_sent(segment, uri="s3://bucket/key", etag="etag")
    (sent,) = spool.segments(SegmentState.SENT)
    assert (sent.uri, sent.sent_at, sent.reason) == ("s3://bucket/key", 1e9, None)
    assert spool.sent_uris() == ["s3://bucket/key"]
    assert spool.last_sent() == sent


def test_mark_of_a_segment_that_was_cut_anew_does_not_count(spool: Spool) -> None:
    append(spool, b"1,first\n", b"2,second\n")
    (before,) = spool.seal_pending()
    spools.flip_bit(spool.path, spools.offset_of(spool.path, b"1,first"), 0)
    spool.connection.reopen()
    (readable,) = spool.recut(before)
    spool.mark_sent(before, uri="s3://bucket/before", etag="etag")
    assert spool.sent_uris() == []
    assert spool.csv(readable) == HEADER + b"2,second\n"


def test_marking_sent_only_shrinks_the_segments_row(spool: Spool) -> None:
    append(spool, rows(0))
    (segment,) = spool.seal_pending()
    size = "SELECT length(coalesce(uri, '')) + length(coalesce(etag, '')) FROM segment"
    before = spool.connection.query(size)
    spool.mark_sent(segment, uri=f"s3://bucket/{'p' * 200}/00000001-0123456789ab.csv.gz", etag='"' + "e" * 32 + '"')
    assert spool.connection.query(size) < before


def test_refused_segment_is_counted_rejected_and_tried_again_on_request(spool: Spool) -> None:
    append(spool, rows(0))
    (segment,) = spool.seal_pending()
    spool.count_refusal(segment, "InvalidRequest")
    assert spool.segments(SegmentState.SEALED)[0].refusal_count == 1
    spool.reject(segment, "refused 3 times")
    assert [each.reason for each in spool.segments(SegmentState.REJECTED)] == ["refused 3 times"]
    assert list(spool.seal_pending()) == []
    assert spool.retry_rejected() == 1
    assert [each.refusal_count for each in spool.seal_pending()] == [0]


def test_damaged_segment_is_not_tried_again(spool: Spool) -> None:
    append(spool, b"1,precious\n")
    spools.flip_bit(spool.path, spools.offset_of(spool.path, b"1,precious"), 2)
    spool.connection.reopen()
    assert list(spool.seal_pending()) == []
    assert spool.retry_rejected() == 0
    (damaged,) = spool.segments(SegmentState.REJECTED)
    with pytest.raises(SpoolDamaged):
        spool.csv(damaged)


def test_sent_segment_is_never_rejected(spool: Spool) -> None:
    append(spool, rows(0))
    (segment,) = spool.seal_pending()
    spool.mark_sent(segment, uri="s3://bucket/key", etag="etag")
    spool.reject(segment, "late refusal")
    assert len(spool.segments(SegmentState.SENT)) == 1


def test_ended_run_takes_no_rows_and_keeps_its_first_end(spool: Spool) -> None:
    spool.end(exit_code=3, run_status="failed", ended_at=5.0)
    spool.end(exit_code=0, run_status="finished", ended_at=6.0)
    run = spool.run()
    assert (run.state, run.exit_code, run.run_status, run.ended_at) == (RunState.ENDED, 3, "failed", 5.0)
    with pytest.raises(RunEnded, match="takes no more rows"):
        append(spool, rows(0))


def test_open_run_is_not_finished(spool: Spool) -> None:
    spool.finish({"early": True})
    assert spool.run().state is RunState.OPEN
    spool.end(exit_code=None, run_status="failed", ended_at=5.0)
    spool.finish({"late": True})
    assert spool.run().finish_answer == {"late": True}


def test_parked_run_is_registered_anew_under_another_key_and_sends_everything_again(spool: Spool) -> None:
    append(spool, rows(0))
    spools.registered(spool)
    spools.send_all(spool)
    before = spool.run()
    spool.park("forgotten")
    assert spool.run().parked == "forgotten"
    spool.unpark()
    run = spool.run()
    assert (run.parked, run.registration) == (None, None)
    assert run.spool_id != before.spool_id
    assert [each.uri for each in spool.seal_pending()] == [None]


def test_registration_is_kept_and_replaced_by_a_later_one(spool: Spool) -> None:
    spool.register(REGISTRATION)
    spool.register(Registration("run-2", "s3://bucket/run-2"))
    assert spool.run().registration == Registration("run-2", "s3://bucket/run-2")


def test_description_fills_in_only_what_was_not_given(tmp_path: Path) -> None:
    with closing(Spool.create(tmp_path, plays.new_run())) as spool:
        spool.describe(host_info={"host_vcpus": 2}, cloud_info={"cloud_vendor_id": "x"})
        assert (spool.run().host_info, spool.run().cloud_info) == ({}, {}), "the caller gave empty ones"


def test_problem_is_kept_with_its_cause_until_nothing_is_in_the_way(spool: Spool) -> None:
    spool.note_problem("nobody answers", cause="DNS")
    run = spool.run()
    assert (run.problem, run.problem_cause, run.problem_at) == ("nobody answers", "DNS", 1e9)
    spool.note_problem(None)
    assert (spool.run().problem, spool.run().problem_cause) == (None, None)


def test_another_tracker_takes_over(spool: Spool) -> None:
    successor = Tracker(pid=1, started_at="2", boot_id="b", pid_namespace="n", host="h")
    mark = spool.run().tracker.file_mark
    spool.take_over(successor)
    assert spool.run().tracker == replace(successor, file_mark=mark)


def test_same_header_is_kept_once(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    append(spool, rows(2), header=OTHER)
    append(spool, rows(3))
    assert spool.connection.query("SELECT count(*) FROM header") == [(2,)]
    assert spool.last_header() == HEADER


def test_batches_of_one_append_are_all_there_or_none(spool: Spool) -> None:
    broken = [Batch(HEADER, rows(0)), Batch(HEADER, None)]  # type: ignore[arg-type]
    with pytest.raises((TypeError, AttributeError)):
        spool.append(broken)
    assert spool.connection.query("SELECT count(*) FROM batch") == [(0,)]
    append(spool, rows(1))
    assert spools.exported(spool) == rows(1)


def test_offset_of_the_csv_is_that_of_the_newest_batch(spool: Spool) -> None:
    spool.append([Batch(HEADER, rows(0)), Batch(HEADER, rows(1))], csv_offset=40)
    spool.append([Batch(HEADER, rows(2))], csv_offset=50)
    assert spool.csv_offset() == 50


def test_released_rows_are_those_that_s3_holds_and_export_tells_of_them(spool: Spool) -> None:
    append(spool, *[rows(number, 2) for number in range(0, 200, 2)])
    spools.registered(spool)
    spools.send_all(spool, max_bytes=300)
    append(spool, rows(900))
    sealed = list(spool.seal_pending())
    append(spool, rows(901))
    assert spool.release_sent() == 100
    assert spools.exported(spool) == rows(900, 2)
    assert spools.only_in_s3(spool) == spool.segments(SegmentState.SENT)
    assert spool.csv(sealed[0]) == HEADER + rows(900)
    assert spool.release_sent() == 0
    counts = queries.counts(spool.connection)
    assert (counts.recorded, counts.sent, counts.waiting) == (202, 200, 2)


def test_newest_batch_gives_its_rows_but_not_its_place(spool: Spool) -> None:
    spool.append([Batch(HEADER, rows(0, 5))], csv_offset=77)
    spools.registered(spool)
    spools.send_all(spool)
    assert spool.release_sent() == 1
    assert (spool.csv_offset(), spool.last_header()) == (77, HEADER)
    assert spools.exported(spool) == b""
    assert [each.row_count for each in spools.only_in_s3(spool)] == [5]
    append(spool, rows(5))
    assert [each.row_count for each in spool.seal_pending()] == [1]


def test_append_on_a_full_disk_takes_the_room_of_what_s3_holds(spool: Spool) -> None:
    append(spool, *[rows(number, 100) for number in range(100)])
    with spool.connection.transaction() as db:  # no page more than now
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    more = rows(200, 2000)
    with pytest.raises(SpoolFull):
        append(spool, more)
    spools.registered(spool)
    spools.send_all(spool)
    append(spool, more)
    assert spools.exported(spool).endswith(more)


def test_segments_are_given_up_only_while_none_behind_them_is_sent(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    spools.registered(spool)
    first, second = spool.seal_pending(max_bytes=1)
    spool.mark_sent(second, uri="s3://bucket/run-1/00000002-abc.csv.gz", etag="e")
    assert not spool.unseal_from(first)
    assert spool.segments(SegmentState.SEALED) == [first]


def test_rows_that_are_only_in_s3_cannot_be_sent_anew_and_that_is_told(spool: Spool) -> None:
    append(spool, rows(0), rows(1))
    spools.registered(spool)
    spools.send_all(spool, max_bytes=1)
    assert [spool.release_sent() for _ in range(3)] == [1, 1, 0]
    spool.unpark()
    for segment in list(spool.seal_pending()):
        assert spool.recut(segment) == []
    assert [each.reason for each in spool.segments(SegmentState.REJECTED)] == [segments.MISSING] * 2


def test_failed_creation_leaves_nothing_behind(tmp_path: Path) -> None:
    class Unwritable:
        def __str__(self) -> str:
            raise ValueError

    bad = plays.new_run()
    object.__setattr__(bad, "metadata", {"x": Unwritable()})
    with pytest.raises(TypeError):
        Spool.create(tmp_path / "spools", bad)
    assert directory.spool_paths(tmp_path / "spools") == []
    assert [path.name for path in (tmp_path / "spools").iterdir()] == [directory.MARK_NAME]


def test_vanished_spool_says_which_and_what_to_do(spool: Spool) -> None:
    spool.path.parent.rename(spool.path.parent.with_name("elsewhere"))
    with pytest.raises(SpoolUnavailable, match="has vanished") as gone:
        append(spool, rows(0))
    assert str(spool.path.parent) in str(gone.value)
    with pytest.raises(SpoolUnavailable):
        spool.run()


def finished(directory: Path, *entries: bytes) -> Spool:
    spool = Spool.create(directory, plays.new_run())
    append(spool, *entries)
    spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    spool.finish({"statistics": "x" * 1000})
    return spool


def test_short_run_that_was_delivered_takes_little_room_and_reads_as_before(tmp_path: Path) -> None:
    with closing(finished(tmp_path, rows(0))) as spool:
        run = spool.run()
        files = [path.stat() for path in tmp_path.iterdir()]
        assert sum(each.st_size for each in files) <= 24 << 10
        assert sum(512 * each.st_blocks for each in files) <= 24 << 10
        assert (run.state, run.finish_answer) == (RunState.FINISHED, {"statistics": "x" * 1000})
        assert spools.exported(spool) == rows(0)
        assert audit(spool.path) == []


def test_short_run_that_has_ended_takes_little_room_while_it_waits_for_its_delivery(tmp_path: Path) -> None:
    with closing(Spool.create(tmp_path, plays.new_run())) as spool:
        append(spool, rows(0, 4, width=150))
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        files = [path.stat() for path in tmp_path.iterdir()]
        assert sum(each.st_size for each in files) <= 24 << 10
        assert sum(512 * each.st_blocks for each in files) <= 24 << 10
        assert spool.run().finish_answer is None
        assert spools.exported(spool) == rows(0, 4, width=150)
        assert audit(spool.path) == []


def test_whoever_has_a_run_open_reads_on_when_it_is_made_small(tmp_path: Path) -> None:
    with closing(Spool.create(tmp_path, plays.new_run())) as tracker, closing(Spool(tracker.path)) as uploader:
        append(tracker, rows(0))
        tracker.end(exit_code=0, run_status="finished", ended_at=1e9)
        assert uploader.run().state is RunState.ENDED
        uploader.finish({})
        assert tracker.run().state is RunState.FINISHED
        assert spools.exported(tracker) == rows(0)
        uploader.unpark()
        assert tracker.run().registration is None


def test_long_run_keeps_its_pages(tmp_path: Path) -> None:
    with closing(finished(tmp_path, rows(0, 1000, width=400))) as spool:
        assert spool.connection.query("PRAGMA page_size") == [(PAGE_BYTES,)]


@pytest.mark.parametrize("page", [0, 1, 2, 3])
def test_small_run_that_is_damaged_is_recovered(tmp_path: Path, page: int) -> None:
    with closing(finished(tmp_path, rows(0))) as spool:
        known = spool.run()
    with spool.path.open("r+b") as file:
        file.seek(page * 512)
        file.write(b"\xff" * 512)
    recovered = recover_file(spool.path, file_identity(spool.path))
    assert recovered is not None
    assert recovered.row_count == 1
    with closing(Spool(spool.path)) as again:
        assert recovered.has_lost_run or again.run().spool_id == known.spool_id
        assert spools.exported(again) == rows(0)


def test_page_that_came_with_the_registration_stays_known_while_the_run_ends(tmp_path: Path) -> None:
    """It lies where room is kept for the delivery on a full disk: registering late, or anew, takes nothing of that."""
    kept: dict[bool, int] = {}
    for is_late in (False, True):
        new = NewRun(tracker=system.identify(1), started_at=1.0, api_url="http://x")
        with closing(Spool.create(tmp_path, new)) as spool:
            if is_late:
                spool.end(exit_code=0, run_status="finished", ended_at=2.0)
            spool.register(Registration("r1", "s3://b/r1", "/run/r1"))
            if not is_late:
                spool.end(exit_code=0, run_status="finished", ended_at=2.0)
            assert spool.run().page_url == "http://x/run/r1"
            assert spool.run().finish_answer is None
            ((kept[is_late],),) = spool.connection.query("SELECT length(finish_answer) FROM run")
            spool.register(Registration("r2", "s3://b/r2"))
            assert spool.run().page_url is None
    assert kept[True] == kept[False] > 3000
