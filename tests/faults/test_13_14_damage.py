"""Faults 13 and 14: a flipped bit, a damaged page, a truncated file, a lost journal. What is readable is delivered."""

import logging
import random
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spool import Batch, SegmentState, Spool, SpoolError, ownership, queries
from spool.errors import SpoolDamaged
from spool.recovery.audit import audit
from spool.recovery.recover import recover, surviving_damage
from streaming.errors import StreamError
from streaming.record.plan import Delivery
from streaming.record.recorder import Recorder
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from streaming.upload.model import Outcome
from tests.support import oracle, plays, spools, tracing
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.nursery import Nursery, order
from tests.support.oracle import Evidence, Told
from tests.support.recovery import acknowledged, lines
from tests.support.spools import HEADER, rows
from tests.support.turns import adopt_all, drain_run


class NoWait:
    """The time of a drain in a test."""

    def wait(self, seconds: float) -> None:
        raise AssertionError(f"nothing should be waited for, yet {seconds} s were asked for")

    def has_time(self) -> bool:
        return True


def drained(path: Path) -> MemoryFarEnd:
    """What `drain` makes of it; the run's tracker counts as gone."""
    far_end = MemoryFarEnd()
    with_far_end(path, far_end)
    return far_end


def with_far_end(path: Path, far_end: MemoryFarEnd) -> None:
    clients = cast(Clients, SimpleNamespace(service=far_end, store=far_end, token=None))
    assert drain_run(path, clients, NoWait(), api_url="", has_ended=True) is Outcome.DELIVERED


def ended(path: Path) -> Path:
    with closing(Spool(path)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    return path


def batches(count: int) -> list[bytes]:
    return [rows(10 * number, 3, width=number % 50) for number in range(count)]


# -- 13: one flipped bit -----------------------------------------------------------------------------------------------


def test_fault_13_flipped_bit_in_a_pending_batch_costs_that_batch_only(tmp_path: Path) -> None:
    appended = [b"%d,batch %d\n" % (number, number) for number in range(9)]
    path = spools.filled(tmp_path, appended)
    spools.flip_bit(path, spools.offset_of(path, b"4,batch 4"), 1)
    ended(path)
    far_end = drained(path)
    told = Told(HEADER, appended[:4] + appended[5:])
    oracle.judge(far_end.evidence(), told, run_status="finished", exit_code=0)
    with closing(Spool(path)) as spool:
        (aside,) = spool.segments(SegmentState.REJECTED)
        assert (aside.first_batch_id, aside.last_batch_id, aside.row_count) == (5, 5, 1)
        assert "checksum" in (aside.reason or "")
        assert queries.counts(spool.connection).rejected == 1


def test_fault_13_flipped_bit_in_a_sealed_segment_costs_that_batch_only(tmp_path: Path) -> None:
    appended = [b"%d,batch %d\n" % (number, number) for number in range(9)]
    path = spools.filled(tmp_path, appended)
    with closing(Spool(path)) as spool:
        assert len(list(spool.seal_pending())) == 1
    spools.flip_bit(path, spools.offset_of(path, b"4,batch 4"), 1)
    ended(path)
    far_end = drained(path)
    told = Told(HEADER, appended[:4] + appended[5:])
    oracle.judge(far_end.evidence(), told, run_status="finished", exit_code=0)
    with closing(Spool(path)) as spool:
        (aside,) = spool.segments(SegmentState.REJECTED)
        assert (aside.first_batch_id, aside.last_batch_id) == (5, 5)


def test_fault_13_flipped_bit_in_rows_that_s3_holds_costs_nothing(tmp_path: Path) -> None:
    appended = [b"%d,batch %d\n" % (number, number) for number in range(9)]
    path = spools.filled(tmp_path, appended)
    far_end = MemoryFarEnd()
    with closing(Spool(path)) as spool:
        assert delivery.deliver(spool, far_end, far_end) is delivery.Progress.WAITING_FOR_ROWS
    spools.flip_bit(path, spools.offset_of(path, b"4,batch 4"), 1)
    ended(path)
    with_far_end(path, far_end)
    oracle.judge(far_end.evidence(), Told(HEADER, appended), run_status="finished", exit_code=0)


def test_fault_13_flipped_bit_in_the_checksum_of_a_sealed_segment_costs_no_row(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [b"1,one\n", b"2,two\n"])
    with closing(Spool(path)) as spool:
        (sealed,) = spool.seal_pending()
    spools.flip_bit(path, spools.offset_of(path, sealed.sha256.encode()), 1)
    with closing(Spool(path)) as spool:
        (damaged,) = spool.segments(SegmentState.SEALED)
        assert damaged.sha256 != sealed.sha256
        assert [finding for finding in audit(path) if finding.startswith("segment 1: its rows are not those")]
    far_end = drained(ended(path))
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,one\n", b"2,two\n"]), run_status="finished", exit_code=0)
    assert list(far_end.objects) == [f"s3://bucket/run-1/00000001-{sealed.sha256[:12]}.csv.gz"]


# What a flipped bit makes of a text: `{` becomes `z`, another text; or the text is none any more.
@pytest.mark.parametrize("bit", [0, 7], ids=["another letter", "no letter"])
@pytest.mark.parametrize("fact", ['{"pid"', '{"job_name"', '{"host_hostname"', '{"cloud_vendor_id"'])
def test_fault_13_flipped_bit_in_the_run_record_costs_what_it_hit_and_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fact: str, bit: int
) -> None:
    facts = {"metadata": {"job_name": "j"}, "host_info": {"host_hostname": "h"}, "cloud_info": {"cloud_vendor_id": "c"}}
    with closing(Spool.create(tmp_path, replace(plays.new_run(), **facts))) as spool:  # type: ignore[arg-type]
        path = spool.path
        spool_id = spool.run().spool_id
        spool.append([Batch(HEADER, rows(0, 3))])
    spools.flip_bit(ended(path), spools.offset_of(path, fact.encode()), bit)
    spools.journal_of(path).write_bytes(b"")  # where an earlier version of the record is
    far_end = drained(path)
    assert "of the run itself is lost" in caplog.text
    assert list(far_end.runs) == [spool_id], "it is registered as the run that it is"
    oracle.judge(far_end.evidence(), Told(HEADER, [rows(0, 3)]), run_status="finished", exit_code=0)


def test_fault_13_flipped_bit_in_the_run_record_costs_nothing_if_an_earlier_version_is_left(tmp_path: Path) -> None:
    with closing(Spool.create(tmp_path, replace(plays.new_run(), metadata={"job_name": "j"}))) as spool:
        path = spool.path
        spool.beat()
    spools.flip_bit(path, spools.offset_of(path, b'{"job_name"'), 0)
    deliver_as_owner(path, MemoryFarEnd())
    with closing(Spool(path)) as spool:
        assert spool.run().metadata == {"job_name": "j"}


@pytest.mark.parametrize("state", [SegmentState.SEALED, SegmentState.SENT, SegmentState.REJECTED])
def test_fault_13_segment_in_no_state_that_there_is_costs_no_row(tmp_path: Path, state: SegmentState) -> None:
    """One bit of `sent` makes `senu`: the segment must not be forgotten by the finish."""
    path = spools.filled(tmp_path, [b"1,one\n", b"2,two\n"])
    far_end = MemoryFarEnd()
    with closing(Spool(path)) as spool:
        if state is SegmentState.SENT:
            delivery.deliver(spool, far_end, far_end)
        else:
            (segment,) = spool.seal_pending()
        if state is SegmentState.REJECTED:
            spool.reject(segment, "refused")
    with spools.raw(ended(path)) as connection:
        connection.execute("UPDATE segment SET state = ?", (state.value[:-1] + "u",))
    with_far_end(path, far_end)
    told = Told(HEADER, [b"1,one\n", b"2,two\n"])
    oracle.judge(only_named(far_end.evidence()), told, run_status="finished", exit_code=0)


def test_fault_13_wherever_one_bit_flips_no_wrong_row_and_no_row_twice_is_delivered(tmp_path: Path) -> None:
    chance = random.Random(13)
    appended = batches(30)
    template = spools.filled(tmp_path / "template", appended)
    with closing(Spool(template)) as spool:
        spools.registered(spool)
    content = ended(template).read_bytes()
    wholly = 0
    for attempt in range(150):
        path = tmp_path / f"{attempt}.spool"
        path.write_bytes(content)
        spools.flip_random_bit(path, chance)
        wholly += deliver_damaged(path, appended)
    assert wholly > 50, "a bit that flips in nobody's room costs nothing"


def deliver_damaged(path: Path, appended: Sequence[bytes]) -> bool:
    """Deliver a run that was damaged somewhere. Nothing wrong, nothing twice; whether it all came through."""
    far_end = MemoryFarEnd()
    far_end.register({}, idempotency_key="as the spool was registered")
    with suppress(SpoolError, StreamError):  # any other error is a finding
        deliver_as_owner(path, far_end)
    ours = [run for run in far_end.runs.values() if run.finish is not None]
    for run in ours:
        evidence = Evidence(dict(far_end.objects), run.finish, run.prefix)
        oracle.conserved(only_named(evidence), Told(HEADER, [], appended))
        oracle.ordered(evidence, Told(HEADER, [], appended))
    return any(len(oracle.delivered(Evidence(far_end.objects, run.finish))) == 3 * len(appended) for run in ours)


def deliver_as_owner(path: Path, far_end: MemoryFarEnd) -> None:
    def work(spool: Spool) -> None:
        end_dead_run(spool)
        delivery.deliver(spool, far_end, far_end)

    surviving_damage(path, work, report=lambda _: None)


def only_named(evidence: Evidence) -> Evidence:
    """Without objects of lost segments, which the finish does not name: rows in them are nobody's."""
    named = {uri: content for uri, content in evidence.objects.items() if evidence.names(uri)}
    return replace(evidence, objects=named)


# -- 14: pages, files, journals ----------------------------------------------------------------------------------------


def test_fault_14_damaged_page_is_recovered_by_drain_and_the_user_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    appended = batches(200)
    path = ended(spools.filled(tmp_path, appended))
    spools.overwrite_page(path, spools.leaves_holding(path, "batch")[1])
    number = path.stat().st_ino
    with caplog.at_level(logging.ERROR):
        far_end = drained(path)
    (aside,) = spools.aside(path)
    assert aside.stat().st_ino == number, "the damaged file itself, not a copy"
    (told,) = [record.getMessage() for record in caplog.records if "spool.recovered" in record.getMessage()]
    assert str(aside) in told
    assert "are lost" in told
    kept = {row for _, row in oracle.delivered(far_end.evidence())}
    readable = [batch for batch in appended if set(oracle.split_rows(batch)) <= kept]
    assert 150 < len(readable) < 200
    oracle.judge(far_end.evidence(), Told(HEADER, readable), run_status="finished", exit_code=0)


@pytest.mark.parametrize("seed", range(12))
def test_fault_14_pages_overwritten_at_random_cost_only_what_was_on_them(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    appended = batches(150)
    path = spools.filled(tmp_path, appended[:100])
    far_end = MemoryFarEnd()
    with closing(Spool(path)) as spool:
        assert delivery.deliver(spool, far_end, far_end) is delivery.Progress.WAITING_FOR_ROWS
        spool.append([Batch(HEADER, batch) for batch in appended[100:]])
    ended(path)
    for _ in range(chance.randint(1, 3)):
        spools.overwrite_page(path, chance.randint(1, spools.page_count(path)), chance.randbytes(4096))
    deliver_as_owner(path, far_end)
    finished = [run for run in far_end.runs.values() if run.finish is not None]
    assert len(finished) <= 1
    for run in finished:
        evidence = only_named(Evidence(dict(far_end.objects), run.finish, run.prefix))
        oracle.conserved(evidence, Told(HEADER, [], appended))
        oracle.ordered(evidence, Told(HEADER, [], appended))
        assert len(oracle.delivered(evidence)) > 200


def test_fault_14_recording_goes_on_in_the_recovered_spool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool.create(tmp_path, plays.new_run())
    recorder = Recorder(spool, Delivery(None, "", None, 60, 300))
    with closing(spool):
        recorder.append([Batch(HEADER, batch) for batch in batches(100)])
        newest = spools.leaves_holding(spool.path, "batch")[-1]
        spools.overwrite_page(spool.path, newest)
        with spools.raw(spool.path) as connection:  # somebody commits: cached pages count no more
            connection.execute("UPDATE run SET problem = 'x'")
        recorder.append([Batch(HEADER, b"9999,after\n")])
        recorder.end(exit_code=0, run_status="finished", ended_at=1e9)
    assert "spool.recovered" in caplog.text
    far_end = drained(spool.path)
    assert oracle.delivered(far_end.evidence())[-1] == (HEADER, b"9999,after\n")
    assert audit(spool.path)[1:] == [], "only the gap is left to be told"


def test_fault_14_rows_lost_from_the_spool_are_taken_from_the_csv_again(tmp_path: Path) -> None:
    from streaming.collect.csv_tail import CsvFeeder

    csv_path = tmp_path / "rows.csv"
    csv_path.write_bytes(HEADER + rows(0, 500, width=100))
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        feeder = CsvFeeder(spool, csv_path)
        feeder.take()
        csv_path.write_bytes(csv_path.read_bytes() + rows(500, 5))
        feeder.take()
        csv_path.write_bytes(csv_path.read_bytes() + rows(505, 5))
        spools.flip_bit(spool.path, spools.offset_of(spool.path, b"502,\n"), 1)
        assert recover(spool) is not None
        feeder.take()
        assert spools.exported(spool) == rows(0, 500, width=100) + rows(500, 10)


def test_fault_14_rows_that_were_sent_and_then_lost_are_not_taken_from_the_csv_again(tmp_path: Path) -> None:
    from streaming.collect.csv_tail import CsvFeeder

    csv_path = tmp_path / "rows.csv"
    csv_path.write_bytes(HEADER + rows(0, 5))
    far_end = MemoryFarEnd()
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        feeder = CsvFeeder(spool, csv_path)
        feeder.take()
        csv_path.write_bytes(csv_path.read_bytes() + rows(5, 5))
        feeder.take()
        delivery.deliver(spool, far_end, far_end)
        spools.flip_bit(spool.path, spools.offset_of(spool.path, b"7,\n8,\n"), 1)
        csv_path.write_bytes(csv_path.read_bytes() + rows(10, 5))
        assert recover(spool) is not None
        CsvFeeder(spool, csv_path).take()
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        delivery.deliver(spool, far_end, far_end)
    oracle.judge(far_end.evidence(), Told(HEADER, [rows(0, 15)]), run_status="finished", exit_code=0)


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"not a journal" * 100, None])
def test_fault_14_journal_that_is_none_harms_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = ended(spools.filled(tmp_path, batches(20)))
    if content is None:
        spools.journal_of(path).unlink()
    else:
        spools.journal_of(path).write_bytes(content)
    far_end = drained(path)
    oracle.judge(far_end.evidence(), Told(HEADER, batches(20)), run_status="finished", exit_code=0)


def test_fault_14_journal_lost_after_a_crash_at_any_write_loses_no_other_batch(
    nursery: Nursery, tmp_path: Path
) -> None:
    tracing.require_strace()
    for nth in range(1, 9):
        spool = spools_of(tmp_path / f"crash-{nth}")
        acks = spool.parent / "acks"
        doing = order("append", spool, acks=str(acks), batches=(2, 4))
        end = tracing.run_traced(nursery, doing, tmp_path / "kill", options=tracing.inject_kill("pwrite64", nth))
        assert end.was_killed
        spools.journal_of(spool).unlink()
        far_end = MemoryFarEnd()
        deliver_as_owner(spool, far_end)
        evidence = far_end.evidence()
        told = Told(plays.HEADERS[0], lines([0, 1]), lines([2, 3]))
        oracle.judge(evidence, told, run_status="failed", exit_code=None)
        assert len(acknowledged(acks)) <= 2


def spools_of(place: Path) -> Path:
    """A spool of a dead tracker with two batches."""
    with closing(Spool.create(place, plays.new_run())) as spool:
        spool.append([plays.batch_of(0), plays.batch_of(1)])
    return spool.path


def test_fault_14_uploader_recovers_what_it_finds_damaged(far_end: FarEnd, tmp_path: Path) -> None:
    path = spools.filled(tmp_path, batches(200))
    spools.overwrite_page(path, 1)
    with pytest.raises(SpoolDamaged):
        Spool(path)
    clients = Clients.connect(plays.TOKEN, api_url=far_end.api_url, s3_endpoint_url=None)
    adopt_all(tmp_path, plays.TOKEN, clients, api_url=far_end.api_url)
    clients.reset()
    with closing(Spool(path)) as spool:
        assert queries.counts(spool.connection).recorded == 600
    assert len(spools.aside(path)) == 1
    assert not ownership.is_owned(path)


def test_audit_names_everything_that_is_wrong(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [b"%d,batch %d\n" % (number, number) for number in range(9)])
    assert audit(path) == []
    spools.flip_bit(path, spools.offset_of(path, b"4,batch 4"), 1)
    with spools.raw(path) as connection:
        connection.execute("DELETE FROM batch WHERE batch_id = 7")
    findings: list[Any] = audit(path)
    assert [finding.partition(":")[0] for finding in findings] == ["batches 5 to 5", "batches 7 to 7"]


SEGMENT_DAMAGE = {
    "another checksum": (
        "UPDATE segment SET sha256 = replace(sha256, substr(sha256, 1, 1), 'g') WHERE seq = 2",
        "rows",
    ),
    "a gap": ("DELETE FROM segment WHERE seq = 2", "covers batches"),
    "rows under another header": ("UPDATE header SET csv = CAST('timestamp,y' || char(10) AS BLOB)", "rows"),
}


@pytest.mark.parametrize("damage", SEGMENT_DAMAGE)
def test_audit_compares_what_is_to_be_sent_with_what_was_sealed(tmp_path: Path, damage: str) -> None:
    path = spools.filled(tmp_path, [b"%d,batch %d\n" % (number, number) for number in range(4)])
    with closing(Spool(path)) as spool:
        assert len(list(spool.seal_pending(max_bytes=1))) == 4
    assert audit(path) == []
    statement, told = SEGMENT_DAMAGE[damage]
    with spools.raw(path) as connection:
        connection.execute(statement)
    assert any(finding.startswith("segment") and told in finding for finding in audit(path))
