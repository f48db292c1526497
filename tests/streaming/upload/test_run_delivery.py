"""The turns of one run: what becomes of it, and what is kept for people to see."""

import gzip
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from spool import Spool, ownership, system
from spool.model import Receipt
from streaming.errors import BadArgument, SegmentTooLarge
from streaming.upload.model import Outcome, Terms
from streaming.upload.reachability import Reached
from streaming.upload.run_delivery import RunDelivery
from tests.support import faults, oracle, spools
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told
from tests.support.processes import Home
from tests.support.recorded import Waits, record
from tests.support.recorded import drain as drain_with
from tests.support.runs import dead_run
from tests.support.spools import filled, rows
from tests.support.turns import delivery_of, drain_run


def drain(path: Path, far_end: FarEnd) -> Outcome:
    clients = Clients.connect(far_end.token, api_url=far_end.api_url, s3_endpoint_url=far_end.s3_endpoint_url)
    return drain_run(path, clients, Waits(at_most=2), api_url=far_end.api_url, waits_for_token=False)


def problem_of(path: Path) -> tuple[str | None, str | None]:
    with closing(Spool(path)) as spool:
        run = spool.run()
        return run.problem, run.problem_cause


def test_refused_token_ends_the_drain_and_its_cause_is_kept(home: Home, far_end: FarEnd) -> None:
    path = dead_run(home.spool_dir)
    far_end.revoke_token()
    assert drain(path, far_end) is Outcome.TOKEN_REFUSED
    assert far_end.journal.count("register") == 1
    problem, cause = problem_of(path)
    assert cause == "token refused"
    assert "SENTINEL_API_TOKEN" in (problem or "")


@pytest.mark.parametrize(("door", "cause"), [("api", "refused"), ("both", "refused")])
def test_unreachable_target_leaves_its_cause(home: Home, far_end: FarEnd, door: str, cause: str) -> None:
    path = dead_run(home.spool_dir)
    far_end.down(door)
    assert drain(path, far_end) is Outcome.WAITING
    assert problem_of(path)[1] == cause


def test_delivered_run_has_no_problem_left(home: Home, far_end: FarEnd) -> None:
    path = dead_run(home.spool_dir)
    far_end.down()
    assert drain(path, far_end) is Outcome.WAITING
    far_end.up()
    assert drain(path, far_end) is Outcome.DELIVERED
    assert problem_of(path) == (None, None)


def test_turn_is_one_segment_however_many_there_are(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=3)
    clients = Clients.connect(far_end.token, api_url=far_end.api_url, s3_endpoint_url=far_end.s3_endpoint_url)
    run, terms = delivery_of(recorded.path, clients), Terms(far_end.token, far_end.api_url, None)
    for sent in (1, 2):
        assert run.turn(terms).outcome is Outcome.GOES_ON
        assert far_end.journal.count("put") == sent
    assert run.turn(terms).outcome is Outcome.DELIVERED
    recorded.judge(far_end)


def test_run_that_ends_while_its_rows_go_out_is_finished_by_the_next_turn(home: Home) -> None:
    """Whoever ended it may not come back to say so."""
    path = filled(home.spool_dir, [rows(1)])

    class EndsMeanwhile(MemoryFarEnd):
        def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
            with closing(Spool(path)) as spool:
                spool.end(exit_code=0, run_status="finished", ended_at=1e9)
            return super().put(run_id, uri, body)

    far_end = EndsMeanwhile()
    delivery = RunDelivery(path, lambda _terms: cast(Reached, far_end))
    assert delivery.turn(Terms("", "", None)).outcome is Outcome.GOES_ON
    assert delivery.turn(Terms("", "", None)).outcome is Outcome.DELIVERED


class Narrow(MemoryFarEnd):
    """Behind a proxy that lets through so much."""

    refused_count = 0

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        if len(gzip.decompress(body)) > 3000:
            self.refused_count += 1
            raise SegmentTooLarge("413 Payload Too Large", status=413)
        return super().put(run_id, uri, body)


def test_size_that_was_refused_is_not_tried_again_at_the_next_turn(home: Home) -> None:
    batches = [spools.rows(number, width=1000) for number in range(8)]
    path = spools.filled(home.spool_dir, batches)
    narrow = Narrow()
    delivery = delivery_of(path, SimpleNamespace(service=narrow, store=narrow))
    while delivery.turn(Terms("", "", None)).outcome is Outcome.GOES_ON:
        pass
    with closing(Spool(path)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
    assert delivery.turn(Terms("", "", None)).outcome is Outcome.DELIVERED
    assert narrow.refused_count == 2, "8 kB, then 4 kB"
    oracle.judge(narrow.evidence(), Told(spools.HEADER, batches), run_status="finished", exit_code=0)


# -- what it does not do -----------------------------------------------------------------------------------------------


def test_run_that_another_process_delivers_is_left_to_it(home: Home, far_end: FarEnd) -> None:
    path = dead_run(home.spool_dir)
    with ownership.own(path):
        assert drain(path, far_end) is Outcome.BUSY
    assert far_end.journal.count() == 0


def test_living_run_is_uploaded_and_not_ended(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, has_ended=False, tracker=system.identify(os.getpid()))
    for _ in range(2):
        assert drain(recorded.path, far_end) is Outcome.UPLOADED
    assert far_end.journal.count("finish") == 0
    assert far_end.journal.count("put") == 1


def test_delivered_run_is_not_delivered_again(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    assert drain(recorded.path, far_end) is Outcome.DELIVERED
    count = far_end.journal.count()
    assert drain(recorded.path, far_end) is Outcome.DELIVERED
    assert far_end.journal.count() == count
    recorded.judge(far_end)


def test_rows_set_aside_are_delivered_on_request(home: Home, far_end: FarEnd) -> None:
    """A run that was finished without them is finished; one that waits gets them."""
    recorded = record(home.spool_dir, far_end, segments=3)
    poison = far_end.poison("/00000002-")
    far_end.always("finish", faults.answer(503))
    waits = Waits(at_most=4)
    assert drain_with(recorded, far_end, waits) is Outcome.WAITING
    poison.clear()
    far_end.clear()
    assert drain_with(recorded, far_end, Waits(), anew=True) is Outcome.DELIVERED
    recorded.judge(far_end)


@pytest.mark.parametrize("is_finished", [False, True])
def test_run_for_another_service_is_refused_unless_it_is_done(home: Home, far_end: FarEnd, is_finished: bool) -> None:
    with FarEnd() as other:
        recorded = record(home.spool_dir, other)
        if is_finished:
            assert drain(recorded.path, other) is Outcome.DELIVERED
            assert drain(recorded.path, far_end) is Outcome.DELIVERED
        else:
            with pytest.raises(BadArgument, match=f"was recorded for {other.api_url}, .*--api-url URL"):
                drain(recorded.path, far_end)
    assert far_end.journal.count() == 0


def change_counter(path: Path) -> int:
    """SQLite counts in the file's header how often it was changed."""
    return int.from_bytes(path.read_bytes()[24:28], "big")


def test_same_problem_is_written_down_once_not_at_every_attempt(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    far_end.always("register", faults.answer(503))
    seen: list[int] = []
    outcome = drain_with(
        recorded, far_end, Waits(at_most=20, then=lambda _: seen.append(change_counter(recorded.path)))
    )
    assert outcome is Outcome.WAITING
    assert len(seen) == 20
    assert len(set(seen)) == 1


class Broken(MemoryFarEnd):
    """Brings a defect to light at every request, from the third on another one."""

    count = 0

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        self.count += 1
        return {}[uri] if self.count < 3 else self._divide()

    def _divide(self) -> Receipt:
        raise ZeroDivisionError


def test_defect_is_told_with_its_traceback_once_and_by_a_line_at_every_attempt(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    delivery = delivery_of(filled(home.spool_dir, [rows(1)]), SimpleNamespace(service=broken, store=broken))
    for _ in range(4):
        assert delivery.turn(Terms("", "", None)).outcome is Outcome.WAITING
    told = [record for record in caplog.records if record.message.startswith("delivery.defect")]
    assert [bool(record.exc_info) for record in told] == [True, False, True, False]
    assert "ZeroDivisionError" in told[3].message
