"""Fault 32: the finish, whatever becomes of it. (Its deaths at every step are swept in the tests of faults 1 and 2.)"""

import pytest

from spool import RunState
from streaming.upload.model import Outcome
from tests.support import faults, processes
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.processes import Home
from tests.support.recorded import Waits, connect, drain, problems, record
from tests.support.secrecy import secret
from tests.support.streamed import Streamed

FORMS = pytest.mark.parametrize("is_sealed", [True, False], ids=["s3", "inline"])


def finishes(far_end: FarEnd) -> list[object]:
    return [entry.payload for entry in far_end.journal.requests("finish")]


@FORMS
@pytest.mark.parametrize("lost", [faults.reply_lost(), faults.reply_lost(reset=True), faults.truncated(100)])
def test_fault_32_lost_reply_means_the_same_payload_again_and_409_is_success(
    home: Home, far_end: FarEnd, is_sealed: bool, lost: Fault
) -> None:
    recorded = record(home.spool_dir, far_end, segments=3, is_sealed=is_sealed)
    far_end.fail_next("finish", lost)
    waits = Waits()
    assert drain(recorded, far_end, waits) is Outcome.DELIVERED
    first, second = finishes(far_end)
    assert first == second
    assert far_end.journal.requests("finish")[1].status == 409
    assert len(waits.asked_s) == 1
    assert recorded.run().state is RunState.FINISHED
    assert (recorded.run().finish_answer or {})["already_finished"] is True
    recorded.judge(far_end)


@FORMS
@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_fault_32_not_now_is_tried_again(home: Home, far_end: FarEnd, is_sealed: bool, status: int) -> None:
    recorded = record(home.spool_dir, far_end, segments=2, is_sealed=is_sealed)
    far_end.fail_next("finish", faults.answer(status), times=3)
    outcome, causes = problems(recorded, far_end, Waits())
    assert outcome is Outcome.DELIVERED
    assert causes == [f"HTTP {status}"] * 3
    assert len({str(payload) for payload in finishes(far_end)}) == 1
    recorded.judge(far_end)


@FORMS
def test_fault_32_finished_by_somebody_else_is_finished(home: Home, far_end: FarEnd, is_sealed: bool) -> None:
    recorded = record(home.spool_dir, far_end, segments=2, is_sealed=is_sealed)
    far_end.always("finish", faults.answer(409))
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    assert far_end.journal.count("finish") == 1
    assert recorded.run().state is RunState.FINISHED


@pytest.mark.parametrize("status", [404, 410])
def test_fault_32_forgotten_run_is_parked_with_its_rows_and_registered_anew_on_request(
    home: Home, far_end: FarEnd, status: int
) -> None:
    recorded = record(home.spool_dir, far_end, segments=3)
    far_end.always("finish", faults.answer(status))
    assert drain(recorded, far_end) is Outcome.PARKED
    assert str(status) in (recorded.run().parked or "")
    far_end.clear()
    assert drain(recorded, far_end) is Outcome.PARKED  # nobody decides that but a person
    assert far_end.journal.count("finish") == 1
    first = far_end.run().run_id
    far_end.forget(first)
    assert drain(recorded, far_end, Waits(at_most=0), anew=True) is Outcome.DELIVERED
    assert far_end.run().run_id != first
    assert recorded.run().parked is None
    recorded.judge(far_end)


def test_fault_32_page_of_a_proxy_parks_nothing(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    for status in (404, 409, 410, 405):
        far_end.fail_next("finish", faults.answer(status, b"<html>no such page</html>"))
    waits = Waits()
    assert drain(recorded, far_end, waits) is Outcome.DELIVERED
    assert len(waits.asked_s) == 4
    recorded.judge(far_end)


def test_fault_32_refused_inline_form_goes_through_s3(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2, is_sealed=False)
    far_end.always(
        "finish", faults.answer(422), matching=lambda head: int(head.headers["content-length"]) and not far_end.objects
    )
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    assert (far_end.run().finish or {})["data_source"] == "s3"
    recorded.judge(far_end)


def test_fault_32_refused_for_good_is_parked_with_the_answer(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    far_end.always("finish", faults.json_answer(422, {"detail": "no such thing as exit_code"}))
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.PARKED
    assert "no such thing as exit_code" in (recorded.run().parked or "")
    assert len(far_end.objects) == 2
    far_end.clear()
    far_end.forget(far_end.run().run_id)
    assert drain(recorded, far_end, Waits(at_most=0), anew=True) is Outcome.DELIVERED
    recorded.judge(far_end)


@pytest.mark.parametrize("size", ["small", "large"])
def test_fault_32_service_that_takes_no_compressed_body_gets_a_plain_one(
    home: Home, far_end: FarEnd, size: str
) -> None:
    far_end.service.accepts_gzip = False
    rows_each = 3 if size == "small" else 6000
    recorded = record(home.spool_dir, far_end, rows_each=rows_each, is_sealed=False)
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    assert far_end.journal.count("finish") == (1 if size == "small" else 2)
    recorded.judge(far_end)


@pytest.mark.parametrize("has_registered", [True, False])
def test_fault_32_run_without_rows_still_finishes(
    home: Home, far_end: FarEnd, marker: str, has_registered: bool
) -> None:
    with Streamed(far_end, home, marker) as streamed:
        if has_registered:
            assert streamed.manager.wait_until_registered(40)
        assert streamed.stop()
        streamed.judge()
    assert (far_end.run().finish or {})["data_csv"] == ""


def test_fault_32_uploader_killed_between_finish_and_cleanup_is_followed_by_another(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    """The service has the finish, the spool does not know: the next uploader learns it from the 409."""
    with Streamed(far_end, home, marker) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        held = faults.held()
        far_end.fail_next("finish", held)
        assert held.gate is not None
        killed = far_end.journal
        stopping = _stop_in_background(streamed)
        killed.wait_for_count("finish", 1, 40)
        assert streamed.run().state is RunState.ENDED
        for process in processes.marked(marker):
            processes.kill(process)
        held.gate.release()
        answer = stopping()
        assert answer["already_finished"] is True
        streamed.judge()
        secret(far_end.secrets(), directories=[home.path])
    assert [entry.status for entry in far_end.journal.requests("finish")] == [200, 409]


def _stop_in_background(streamed: Streamed):  # type: ignore[no-untyped-def]
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(streamed.stop)
    pool.shutdown(wait=False)
    return lambda: future.result(60)


def test_fault_32_finish_says_when_and_how_the_run_ended_however_late(home: Home, far_end: FarEnd) -> None:
    recorded = record(home.spool_dir, far_end, segments=1)
    clients = connect(far_end)
    assert drain(recorded, far_end, clients=clients) is Outcome.DELIVERED
    finish = far_end.run().finish or {}
    assert finish["finished_at"] == "2023-11-14T22:14:20.000Z"
    assert finish["exit_code"] == 0
