"""One cycle of delivery against a far end in memory: what is asked for, in which order, and what each answer means."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Batch, RunState, SegmentState, Spool, directory
from streaming.errors import EverythingRefused, Parked, Refused, RunUnknown, StreamError, Transient, Unauthorized
from streaming.upload import delivery
from streaming.upload.delivery import Progress, deliver
from tests.support import oracle, plays
from tests.support.memory_far_end import DOWN, EXPIRED, REFUSED, REPLY_LOST, MemoryFarEnd, Outcome
from tests.support.oracle import Told
from tests.support.recorded import HEADER, rows

UNAUTHORIZED = Outcome(stores=False, error=lambda: Unauthorized("no"))


class Delivered:
    """A spool whose run this test records, and its far end."""

    def __init__(self, spool_dir: Path) -> None:
        self.far_end = MemoryFarEnd()
        self.spool = Spool.create(spool_dir, plays.new_run())
        self.batches: list[bytes] = []

    def append(self, *, row_count: int = 2, is_sealed: bool = True) -> None:
        batch = rows(len(self.batches) * 100, row_count)
        self.spool.append([Batch(HEADER, batch)])
        self.batches.append(batch)
        if is_sealed:
            list(self.spool.seal_pending())

    def end(self, exit_code: int | None = 0) -> None:
        self.spool.end(exit_code=exit_code, run_status="finished", ended_at=1_700_000_000.25)

    def deliver(self, **options: Callable[[], bool]) -> Progress:
        return deliver(self.spool, self.far_end, self.far_end, **options)

    def raises(self, error: type[StreamError], times: int = 1) -> StreamError:
        """The last of so many cycles that all end with this error."""
        for _ in range(times):
            with pytest.raises(error) as caught:
                self.deliver()
            assert type(caught.value) is error
        return caught.value

    def outcomes(self, kind: str, *outcomes: Outcome) -> None:
        self.far_end.outcomes[kind].extend(outcomes)

    def poison(self, seq: int) -> None:
        """The store refuses this segment for good from now on."""
        real, marked = self.far_end.put, f"/{seq:08d}-"

        def put(run_id: str, uri: str, body: bytes) -> object:
            if marked in uri:
                self.outcomes("put", REFUSED)
            return real(run_id, uri, body)

        self.far_end.put = put  # type: ignore[method-assign, assignment]

    def states(self) -> list[str]:
        segments = [segment for state in SegmentState for segment in self.spool.segments(state)]
        return [segment.state.value for segment in sorted(segments, key=lambda each: each.seq)]

    def judge(self, *, without: tuple[int, ...] = (), **expected: object) -> None:
        kept = [batch for number, batch in enumerate(self.batches, 1) if number not in without]
        expected = {"run_status": "finished", "exit_code": 0, **expected}
        oracle.judge(self.far_end.evidence(), Told(HEADER, kept), **expected)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Delivered]:
    made = Delivered(tmp_path / "spools")
    yield made
    made.spool.close()


# -- the story ---------------------------------------------------------------------------------------------------------


def test_open_run_is_uploaded_and_not_finished(run: Delivered) -> None:
    run.append()
    run.append(is_sealed=False)
    assert run.deliver() is Progress.WAITING_FOR_ROWS
    assert run.states() == ["sent", "sent"]
    assert run.spool.run().state is RunState.OPEN
    assert run.far_end.evidence().finish is None


def test_ended_run_is_uploaded_in_order_and_finished(run: Delivered) -> None:
    for _ in range(4):
        run.append()
    run.end()
    assert run.deliver() is Progress.COMPLETE
    run.judge()
    assert run.spool.run().state is RunState.FINISHED
    assert run.deliver() is Progress.COMPLETE
    assert run.far_end.put_count == 4


def test_small_run_that_was_never_uploaded_is_finished_inline(run: Delivered) -> None:
    run.append(is_sealed=False)
    run.append(is_sealed=False)
    run.end(exit_code=None)
    assert run.deliver() is Progress.COMPLETE
    run.judge(exit_code=None)
    finish = run.far_end.evidence().finish or {}
    assert finish["data_source"] == "inline"
    assert finish["finished_at"] == "2023-11-14T22:13:20.250Z"
    assert run.far_end.put_count == 0


def test_run_without_rows_still_finishes(run: Delivered) -> None:
    run.end()
    assert run.deliver() is Progress.COMPLETE
    run.judge()


@pytest.mark.parametrize("why", ["large", "several headers", "not UTF-8"])
def test_what_does_not_fit_inline_goes_through_s3(run: Delivered, why: str) -> None:
    if why == "large":
        big = b"1," + b"x" * delivery.INLINE_MAX_BYTES + b"\n"
        run.spool.append([Batch(HEADER, big)])
        run.batches = [big]
    elif why == "not UTF-8":
        run.spool.append([Batch(HEADER, b"1,\xff\n")])
        run.batches = [b"1,\xff\n"]
    else:
        run.append(is_sealed=False)
        run.spool.append([Batch(b"timestamp,y\n", b"9,9\n")])
    run.end()
    assert run.deliver() is Progress.COMPLETE
    finish = run.far_end.evidence().finish or {}
    assert finish["data_source"] == "s3"
    assert len(finish["data_uris"]) == (2 if why == "several headers" else 1)


def test_refused_inline_form_goes_through_s3(run: Delivered) -> None:
    run.append(is_sealed=False)
    run.end()
    run.outcomes("finish", Outcome(stores=False, error=lambda: Refused("no", status=422)))
    assert run.deliver() is Progress.COMPLETE
    run.judge()
    assert (run.far_end.evidence().finish or {})["data_source"] == "s3"


def test_interrupted_between_segments_it_goes_on_later(run: Delivered) -> None:
    for _ in range(5):
        run.append()
    run.end()
    answers = iter([True, True, False])
    assert run.deliver(may_go_on=lambda: next(answers)) is Progress.INTERRUPTED
    assert run.states() == ["sent", "sent", "sealed", "sealed", "sealed"]
    assert run.deliver() is Progress.COMPLETE
    run.judge()
    assert run.far_end.put_count == 5


# -- replies that do not come ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [REPLY_LOST, DOWN, EXPIRED])
@pytest.mark.parametrize("kind", ["register", "put", "finish"])
def test_outage_at_any_step_is_repeated_and_doubles_nothing(run: Delivered, kind: str, fault: Outcome) -> None:
    run.append()
    run.append()
    run.end()
    run.outcomes(kind, fault, fault)
    for _ in range(2):
        with pytest.raises(Transient):
            run.deliver()
    assert run.deliver() is Progress.COMPLETE
    run.judge()
    assert len(run.far_end.runs) == 1


def test_lost_finish_of_an_inline_run_is_the_same_payload_again(run: Delivered) -> None:
    run.append(is_sealed=False)
    run.end()
    run.outcomes("finish", REPLY_LOST)
    with pytest.raises(Transient):
        run.deliver()
    assert run.deliver() is Progress.COMPLETE
    run.judge()
    assert (run.spool.run().finish_answer or {})["already_finished"] is True


def test_refused_token_parks_nothing(run: Delivered) -> None:
    run.append()
    run.end()
    run.outcomes("register", UNAUTHORIZED)
    run.outcomes("finish", UNAUTHORIZED)
    run.raises(Unauthorized, times=2)
    assert run.spool.run().parked is None
    assert run.deliver() is Progress.COMPLETE
    run.judge()


# -- parked ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["put", "finish"])
def test_forgotten_run_is_parked_and_begun_anew_on_request(run: Delivered, where: str) -> None:
    run.append()
    run.append()
    run.end()
    run.outcomes(where, Outcome(stores=False, error=lambda: RunUnknown("gone", status=404)))
    run.raises(Parked)
    assert "does not know this run" in (run.spool.run().parked or "")
    put_count = run.far_end.put_count
    met = run.raises(Parked, times=3)
    assert "--anew" in met.hint
    assert run.far_end.put_count == put_count
    first = run.far_end.runs.copy()
    run.spool.unpark()
    assert run.deliver() is Progress.COMPLETE
    run.far_end.runs = {key: made for key, made in run.far_end.runs.items() if key not in first}
    run.judge()


@pytest.mark.parametrize("kind", ["register", "finish"])
def test_refused_for_good_is_parked_with_the_answer(run: Delivered, kind: str) -> None:
    run.append()
    run.end()
    run.outcomes(kind, Outcome(stores=False, error=lambda: Refused("422: no such team", status=422)))
    run.raises(Parked)
    assert "no such team" in (run.spool.run().parked or "")


# -- refused segments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 2, 3], ids=["first", "middle", "last"])
def test_poison_is_set_aside_after_patience_and_the_rest_flows(run: Delivered, seq: int) -> None:
    for _ in range(3):
        run.append()
    run.end()
    run.poison(seq)
    run.raises(EverythingRefused, times=delivery.REFUSALS_BEFORE_REJECTION - 1)
    assert run.states().count("sent") == 2
    assert run.states()[seq - 1] == "sealed"
    assert run.deliver() is Progress.COMPLETE
    assert run.states()[seq - 1] == "rejected"
    run.judge(without=(seq,))
    (rejected,) = run.spool.segments(SegmentState.REJECTED)
    assert "refused 3 times while other objects went through" in (rejected.reason or "")
    assert run.spool.csv(rejected) == HEADER + run.batches[seq - 1]


def test_poison_that_is_the_only_segment_is_never_set_aside(run: Delivered) -> None:
    run.append()
    run.end()
    run.poison(1)
    run.raises(EverythingRefused, times=10)
    assert run.states() == ["sealed"]


def test_everything_refused_parks_nothing_and_recovers(run: Delivered) -> None:
    for _ in range(3):
        run.append()
    assert run.deliver() is Progress.WAITING_FOR_ROWS
    for _ in range(3):
        run.append()
    run.end()
    run.outcomes("put", *[REFUSED] * 100)
    run.raises(EverythingRefused, times=9)
    assert run.states() == ["sent"] * 3 + ["sealed"] * 3
    run.far_end.outcomes["put"].clear()
    assert run.deliver() is Progress.COMPLETE
    run.judge()


def test_damage_is_no_sign_that_the_store_takes_objects(run: Delivered) -> None:
    """A damaged segment is set aside without being offered: beside it, a general refusal is still a general one."""
    run.append()
    run.append()
    run.end()
    with run.spool.connection.transaction() as db:
        db.execute("UPDATE batch SET csv = x'00' WHERE batch_id = 1")
    run.outcomes("put", *[REFUSED] * 100)
    run.raises(EverythingRefused, times=2)
    with run.spool.connection.transaction() as db:
        db.execute("UPDATE segment SET state = 'sealed' WHERE seq = 1")  # damage found in that very cycle
    run.raises(EverythingRefused, times=2)
    assert run.states() == ["rejected", "sealed"]


def test_sent_rows_that_are_damaged_since_vouch_for_nothing(run: Delivered) -> None:
    run.append()
    assert run.deliver() is Progress.WAITING_FOR_ROWS
    with run.spool.connection.transaction() as db:
        db.execute("UPDATE batch SET csv = x'00' WHERE batch_id = 1")
    run.append()
    run.outcomes("put", *[REFUSED] * 100)
    run.raises(EverythingRefused, times=4)
    assert run.states() == ["sent", "sealed"]


def test_rejected_segment_is_tried_again_on_request(run: Delivered) -> None:
    for _ in range(2):
        run.append()
    run.poison(2)
    run.raises(EverythingRefused, times=2)
    assert run.deliver() is Progress.WAITING_FOR_ROWS
    assert run.states() == ["sent", "rejected"]
    assert run.spool.retry_rejected() == 1
    del run.far_end.put
    run.end()
    assert run.deliver() is Progress.COMPLETE
    run.judge()


def test_run_whose_rows_are_all_damaged_still_finishes(run: Delivered) -> None:
    run.append()
    run.end()
    with run.spool.connection.transaction() as db:
        db.execute("UPDATE batch SET csv = x'00'")
    assert run.deliver() is Progress.COMPLETE
    assert run.states() == ["rejected"]
    assert (run.far_end.evidence().finish or {})["data_source"] == "inline"


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_repeated_put_has_the_same_key_and_bytes_though_rows_were_added(run: Delivered) -> None:
    run.append()
    run.outcomes("put", REPLY_LOST)
    with pytest.raises(Transient):
        run.deliver()
    run.append(is_sealed=False)
    assert run.deliver() is Progress.WAITING_FOR_ROWS
    first, second = sorted(run.far_end.history)
    assert len(run.far_end.history[first]) == 2
    assert len(set(run.far_end.history[first])) == 1
    assert gzip.decompress(run.far_end.objects[second]) == HEADER + run.batches[1]


def test_registration_is_asked_for_once_and_tells_what_was_given(tmp_path: Path) -> None:
    asked = []

    class Service(MemoryFarEnd):
        def register(self, payload, *, idempotency_key):  # type: ignore[no-untyped-def]
            asked.append((payload, idempotency_key))
            return super().register(payload, idempotency_key=idempotency_key)

    far_end = Service()
    new = replace(plays.new_run(), metadata={"job_name": "x", "team": None, "command": ["a", "b c"]})
    with closing(Spool.create(tmp_path / "spools", new)) as spool:
        deliver(spool, far_end, far_end)
        deliver(spool, far_end, far_end)
        tags = {"run": directory.short_name(spool.path)}
        assert asked == [({"job_name": "x", "command": '["a", "b c"]', "tags": tags}, spool.run().spool_id)]
