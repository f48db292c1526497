"""Faults 22 and 23: a network that is silent, slow, cut, gone, misnamed or forged."""

import json
import sys
from pathlib import Path

import pytest

from streaming.clients import s3, sentinel
from streaming.upload.model import Outcome
from tests.support import faults, processes
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.listener import BlackHole
from tests.support.namespace import SWALLOWED, start_inside
from tests.support.processes import Home, clean_environment
from tests.support.recorded import Recorded, Waits, connect, drain, problems, record
from tests.support.secrecy import secret
from tests.support.streamed import Streamed

DEADLINE_S = 0.6


# -- 22: answers that never come to an end -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connect", "register", "refresh", "put", "finish"])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (faults.silent(), "timeout"),
        (faults.trickle(interval_s=0.05, stores=False), "timeout"),
        (faults.half_closed(), "connection lost"),
        (faults.half_closed(8), None),
    ],
    ids=["silent", "a byte at a time", "half-closed", "half-closed in the status line"],
)
def test_fault_22_every_request_ends_by_a_deadline_and_delivery_goes_on(
    home: Home, far_end: FarEnd, kind: str, fault: Fault, cause: str | None
) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    if kind == "refresh":
        _register_only(recorded, far_end)
    rule = far_end.fail_next(kind, fault, times=1)
    clients = connect(far_end, deadline_s=DEADLINE_S, read_timeout_s=30)
    waits = Waits(then=lambda _count: _allow_time(clients))
    outcome, causes = problems(recorded, far_end, waits, clients=clients)
    assert rule.fired == 1
    assert outcome is Outcome.DELIVERED
    assert cause is None or causes[0] == ("connection lost" if _is_empty(kind, fault) else cause)
    recorded.judge(far_end)
    secret(far_end.secrets(), directories=[home.path])


def _is_empty(kind: str, fault: Fault) -> bool:
    """There is no answer to give to a connection, so giving it slowly is hanging up."""
    return kind == "connect" and fault.name == "trickle"


def _register_only(recorded: Recorded, far_end: FarEnd) -> None:
    with far_end.always("put", faults.answer(503)):
        assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.WAITING


def _allow_time(clients: Clients) -> None:
    """After the fault, a busy machine gets the time that it needs."""
    clients.service._deadline_s = clients.store._deadline_s = 30.0


def test_fault_22_deadlines_of_the_product_are_hard_and_below_two_minutes() -> None:
    assert sentinel.REQUEST_DEADLINE_S <= 60
    assert s3.DEADLINE_S <= 60
    assert s3.DEADLINE_S + (8 << 20) / s3.DEADLINE_BYTES_PER_S < 190  # the largest segment, uncompressed


@pytest.mark.parametrize("door", ["api", "s3"])
def test_fault_22_connects_that_nobody_answers_time_out(home: Home, far_end: FarEnd, door: str) -> None:
    recorded = record(home.spool_dir, far_end, segments=2)
    with BlackHole() as hole:
        clients = connect(far_end, read_timeout_s=0.3)
        if door == "api":
            clients.service._base_url = hole.url
        else:
            clients.store._endpoint_url = hole.url
        outcome, causes = problems(recorded, far_end, Waits(at_most=2), clients=clients)
    assert outcome is Outcome.WAITING
    assert set(causes) == {"timeout"}
    assert far_end.journal.count("put") == 0
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


def test_fault_22_uploader_behind_a_black_hole_delivers_when_it_is_over(
    home: Home, far_end: FarEnd, marker: str
) -> None:
    """The program feels nothing: start, append and stop return while both doors are silent."""
    with Streamed(far_end, home, marker, stop_timeout=1) as streamed:
        far_end.always("connect", faults.silent())
        streamed.append()
        streamed.append()
        assert streamed.stop() == {}
        assert far_end.journal.count() == 0
        processes.kill_marked(marker)
        far_end.clear()
        far_end.reset_connections()
        recorded = streamed.recorded
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


OFFLINE = """
import json, os, sys, time
from streaming import StreamingManager
url = sys.argv[1]
manager = StreamingManager(
    "canary-token-of-nobody", upload_interval=1, api_url=url, s3_endpoint_url=url, host_info={}, cloud_info={}, stop_timeout=0
)
began = time.monotonic()
manager.start()
started = time.monotonic()
manager.append(b"timestamp,x\\n1,2\\n3,4\\n")
print(json.dumps({"start_s": started - began}), flush=True)
sys.stdin.readline()
assert manager.stop() == {}
print("stopped", flush=True)
"""


@pytest.mark.parametrize(
    ("url", "swallows", "cause"),
    [
        (f"https://{SWALLOWED}", True, "timeout"),
        (f"https://{SWALLOWED}", False, "no route"),
        ("https://api.invalid", False, "DNS"),
        ("https://127.0.0.1:9", False, "refused"),
    ],
    ids=["22 SYN dropped", "23 no route", "23 DNS failure", "23 refused"],
)
def test_fault_22_23_offline_program_feels_nothing_and_the_cause_is_named(
    home: Home, marker: str, url: str, swallows: bool, cause: str
) -> None:
    script = home.path / "program.py"
    script.write_text(OFFLINE)
    environment = clean_environment(home, marker, TRACKER_STREAM_LINGER="0")
    command: list[str | Path] = [sys.executable, script, url]
    with start_inside(command, environment, swallows=swallows, stdin=True) as program:
        started = json.loads(program.read_line())
        (path,) = home.spool_dir.glob("*.spool")
        recorded = Recorded(path, None)  # type: ignore[arg-type]
        processes.eventually(lambda: recorded.run().problem_cause, 60, "no problem was ever noted")
        assert recorded.run().problem_cause == cause
        assert url in (recorded.run().problem or "")
        program.say("stop")
        program.wait(60).check_unfelt()
    assert started["start_s"] < 10  # it does not wait for connect timeouts
    processes.kill_marked(marker)
    processes.wait_gone(marker)
    secret(["canary-token-of-nobody"], directories=[home.spool_dir, home.tmp_dir])


# -- 23: refused, forged, cut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["api", "s3"])
def test_fault_23_refused_connections_are_retried_and_named(
    home: Home, far_end: FarEnd, marker: str, door: str
) -> None:
    with Streamed(far_end, home, marker) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        far_end.down(door)
        streamed.append()
        if door == "s3":
            streamed.wait_for_cause("refused")
        far_end.up(door)
        streamed.append()
        assert streamed.stop()
        streamed.judge()


@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        ({}, "TLS"),
        ({"certificate_host": "other.example"}, "TLS"),
        ({"certificate_expired": True}, "TLS: certificate out of date, or this clock wrong"),
    ],
    ids=["unknown authority", "another host", "expired"],
)
def test_fault_23_bad_certificate_gets_no_token_and_no_rows(
    home: Home, marker: str, monkeypatch: pytest.MonkeyPatch, certificate: dict[str, object], cause: str
) -> None:
    with FarEnd(tls=True, **certificate) as forged:  # type: ignore[arg-type]
        if certificate:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(forged.ca_file))
        recorded = record(home.spool_dir, forged, segments=2)
        outcome, causes = problems(recorded, forged, Waits(at_most=2))
        assert outcome is Outcome.WAITING
        assert causes == [cause] * 3
        assert recorded.run().problem_cause == cause
        assert forged.journal.count() == 0


def test_fault_23_own_authority_is_trusted_by_the_uploader_too(
    home: Home, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FarEnd(tls=True) as far_end:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(far_end.ca_file))
        with Streamed(far_end, home, marker) as streamed:
            streamed.append()
            streamed.wait_sent(1)
            streamed.append()
            assert streamed.stop()
            streamed.judge()


@pytest.mark.parametrize("cut", [faults.cut_upload(1), faults.cut_upload(100), faults.closed(reset=True)])
def test_fault_23_link_down_in_mid_body_stores_nothing_and_is_repeated(home: Home, far_end: FarEnd, cut: Fault) -> None:
    recorded = record(home.spool_dir, far_end, segments=3, rows_each=500)
    far_end.nth("put", 2, cut)
    outcome, causes = problems(recorded, far_end, Waits())
    assert outcome is Outcome.DELIVERED
    assert causes == ["connection lost"]
    recorded.judge(far_end)
    numbers = [entry.path.rsplit("/", 1)[1][:8] for entry in far_end.journal.requests("put")]
    assert numbers == ["00000001", "00000002", "00000002", "00000003"]  # in order, and none twice


def test_fault_23_far_end_down_in_mid_body_of_a_slow_link(home: Home, far_end: FarEnd, marker: str) -> None:
    with Streamed(far_end, home, marker) as streamed:
        slow = far_end.always("put", faults.slow_reading(1000))
        streamed.append(row_count=4000)
        processes.eventually(lambda: slow.fired, 40, "no PUT began")
        far_end.down()
        processes.eventually(lambda: streamed.run().problem_cause in ("connection lost", "refused"), 40, streamed.log)
        far_end.clear()
        far_end.up()
        streamed.append()
        assert streamed.stop()
        streamed.judge()
