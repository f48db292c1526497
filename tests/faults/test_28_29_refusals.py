"""Faults 28 and 29: a segment that the store will never take, and a store that takes none."""

from contextlib import closing

import pytest

from spool import RunState, SegmentState, Spool, queries
from streaming.upload.model import Outcome
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.oracle import Told
from tests.support.processes import Home, eventually
from tests.support.recorded import HEADER, Recorded, Waits, drain, problems, record
from tests.support.secrecy import secret
from tests.support.streamed import Streamed

LIMIT_BYTES = 10_000
REFUSALS = [
    faults.s3_error("InvalidRequest", 400),
    faults.s3_error("EntityTooLarge", 413),
    faults.s3_error("KeyTooLongError", 400),
    faults.s3_error("MethodNotAllowed", 405),
]


def set_aside(recorded: Recorded) -> dict[int, bytes]:
    """The rows of the segments that are set aside, by number."""
    with closing(Spool(recorded.path)) as spool:
        return {
            segment.seq: spool.csv(segment).removeprefix(HEADER) for segment in spool.segments(SegmentState.REJECTED)
        }


def told_without(recorded: Recorded, number: int) -> Recorded:
    kept = [batch for index, batch in enumerate(recorded.told.acknowledged, 1) if index != number]
    return Recorded(recorded.path, Told(HEADER, kept))


# -- 28: one poison segment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("number", [1, 3, 5], ids=["first", "middle", "last"])
def test_fault_28_poison_is_set_aside_kept_and_shown_and_the_rest_flows(
    home: Home, far_end: FarEnd, number: int, refusal: Fault
) -> None:
    recorded = record(home.spool_dir, far_end, segments=5)
    far_end.poison(f"/{number:08d}-", refusal)
    assert drain(recorded, far_end, Waits(at_most=5)) is Outcome.DELIVERED
    told_without(recorded, number).judge(far_end)
    assert set_aside(recorded) == {number: recorded.told.acknowledged[number - 1]}
    with closing(Spool(recorded.path)) as spool:
        counts = queries.counts(spool.connection)
        (segment,) = spool.segments(SegmentState.REJECTED)
    assert (counts.recorded, counts.sent, counts.rejected, counts.waiting) == (15, 12, 3, 0)
    assert segment.refusal_count == 3  # before it is believed
    assert "while other objects went through: S3 answered 4" in (segment.reason or "")


def test_fault_28_poison_that_is_the_only_segment_waits_and_is_delivered_in_the_end(
    home: Home, far_end: FarEnd
) -> None:
    """Nothing else tells whether it is the segment or the store: so it is never given up."""
    recorded = record(home.spool_dir, far_end)
    far_end.poison("/00000001-")
    outcome, causes = problems(recorded, far_end, Waits(at_most=20))
    assert outcome is Outcome.WAITING
    assert set(causes) == {"InvalidRequest"}
    assert set_aside(recorded) == {}
    assert recorded.run().state is RunState.ENDED
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


def test_fault_28_poison_in_a_live_run_holds_nothing_up(home: Home, far_end: FarEnd, marker: str) -> None:
    with Streamed(far_end, home, marker) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        poison = far_end.poison("/00000002-")
        streamed.append()
        eventually(lambda: poison.fired, 40, "the poison was never offered")
        streamed.append()
        streamed.wait_sent(2)
        streamed.append()
        streamed.wait_sent(3)
        assert streamed.stop()
        recorded = streamed.recorded
        secret(far_end.secrets(), directories=[home.path])
    told_without(recorded, 2).judge(far_end)
    assert set_aside(recorded) == {2: recorded.told.acknowledged[1]}


def test_fault_28_several_poisons_do_not_vouch_for_one_another(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=4)
    for number in (2, 4):
        far_end.poison(f"/{number:08d}-")
    assert drain(recorded, far_end, Waits(at_most=5)) is Outcome.DELIVERED
    assert set(set_aside(recorded)) == {2, 4}


def test_fault_28_proxy_that_takes_small_objects_only_gets_small_ones(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=40, rows_each=200, is_sealed=False)
    with closing(Spool(recorded.path)) as spool:
        (whole,) = spool.seal_pending()
    page = faults.answer(413, b"<html>413 Request Entity Too Large</html>", headers={"Content-Type": "text/html"})
    rule = far_end.always("put", page, matching=lambda head: int(head.headers["content-length"]) > LIMIT_BYTES)
    assert drain(recorded, far_end, Waits(at_most=2)) is Outcome.DELIVERED
    assert rule.fired
    recorded.judge(far_end)
    assert all(len(body) <= LIMIT_BYTES for body in far_end.objects.values())
    assert len(far_end.objects) > 2
    assert whole.csv_bytes > len(far_end.objects) * LIMIT_BYTES / 2  # one object would have been far too large


def test_fault_28_killed_amid_the_halves_of_what_was_too_large_loses_and_doubles_nothing(
    home: Home, far_end: FarEnd
) -> None:
    recorded = record(home.spool_dir, far_end, segments=40, rows_each=200, is_sealed=False)
    page = faults.answer(413, b"<html>413</html>", headers={"Content-Type": "text/html"})
    far_end.always("put", page, matching=lambda head: int(head.headers["content-length"]) > LIMIT_BYTES)
    for number in range(1, 8):  # at each PUT that is taken the reply is lost, and the next attempt is another process
        far_end.nth("put", number, faults.reply_lost())
        drain(recorded, far_end, Waits(at_most=0))
    far_end.clear()
    far_end.always("put", page, matching=lambda head: int(head.headers["content-length"]) > LIMIT_BYTES)
    assert drain(recorded, far_end, Waits(at_most=3)) is Outcome.DELIVERED
    recorded.judge(far_end)


# -- 29: everything refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [*REFUSALS, faults.s3_error("NoSuchBucket", 404)], ids=lambda fault: fault.name)
@pytest.mark.parametrize("sent_before", [0, 2])
def test_fault_29_everything_refused_parks_nothing_says_so_and_recovers(
    home: Home, far_end: FarEnd, refusal: Fault, sent_before: int
) -> None:
    recorded = record(home.spool_dir, far_end, segments=5)
    for _ in range(sent_before):
        far_end.fail_next("put", Fault("good"))
    rule = far_end.reject_all(refusal)
    outcome, causes = problems(recorded, far_end, Waits(at_most=8))
    assert outcome is Outcome.WAITING
    code = refusal.name.removeprefix("s3 error ")
    assert set(causes) == {code}
    run = recorded.run()
    assert (run.parked, run.problem_cause) == (None, code)
    assert f"{code} (scripted)" in (run.problem or ""), "the store's own words are told"
    assert set_aside(recorded) == {}
    assert len(far_end.objects) == sent_before
    assert far_end.run().finish is None
    rule.clear()
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


def test_fault_29_refused_registration_is_parked_with_its_answer_and_begun_anew(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end)
    far_end.always("register", faults.json_answer(422, {"detail": "no such team"}))
    assert drain(recorded, far_end) is Outcome.PARKED
    assert "no such team" in (recorded.run().parked or "")
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.PARKED
    assert far_end.journal.count("register") == 1
    assert drain(recorded, far_end, anew=True) is Outcome.DELIVERED
    recorded.judge(far_end)
