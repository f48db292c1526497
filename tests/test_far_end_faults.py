"""The far end's faults are what they are called, seen by boto3 and requests: answers, connections, its journal."""

import base64
import hashlib
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.listener import BlackHole
from tests.support.plain_client import BODY, Client, s3_code
from tests.support.processes import Home, clean_environment, start_program
from tests.support.remote import RemoteFarEnd

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def client(far_end: FarEnd) -> Client:
    return Client(far_end)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["7", "99999999", "garbage", faults.http_date(60)], ids=["seconds", "huge", "garbage", "date"]
)
def test_retry_after_is_sent_verbatim(client: Client, far_end: FarEnd, text: str) -> None:
    far_end.fail_next("register", faults.answer(429, retry_after=text))
    assert client.post("/runs", {}).headers["Retry-After"] == text


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 413, 422, 429, 500, 503, 511])
def test_scripted_status_stores_nothing(client: Client, far_end: FarEnd, status: int) -> None:
    far_end.fail_next("register", faults.answer(status))
    answer = client.post("/runs", {})
    assert (answer.status_code, answer.json()) == (status, {"detail": f"scripted {status}"})
    assert not far_end.runs
    (entry,) = far_end.journal.requests("register")
    assert (entry.stored, entry.status) == (False, status)


def test_scripted_s3_errors_are_xml(client: Client, far_end: FarEnd) -> None:
    client.register()
    for fault, expected in (
        (faults.s3_error("ExpiredToken", 400), ("ExpiredToken", 400)),
        (faults.answer(503), ("SlowDown", 503)),
        (faults.answer(409), ("OperationAborted", 409)),
        (faults.answer(413, early=True), ("EntityTooLarge", 413)),
    ):
        far_end.fail_next("put", fault)
        assert s3_code(client.put) == expected
    assert not far_end.objects


def test_captive_portal_looks_like_success_and_stores_nothing(client: Client, far_end: FarEnd) -> None:
    client.register()
    for fault in (faults.captive_portal(), faults.pretended(200), faults.pretended(204)):
        far_end.fail_next("put", fault)
        assert "ETag" not in client.put()  # boto3 sees nothing wrong: this is the danger
    far_end.fail_next("register", faults.captive_portal())
    answer = client.post("/runs", {})
    assert answer.status_code == 200
    assert "text/html" in answer.headers["Content-Type"]
    assert not far_end.objects


def test_redirect_leads_elsewhere(client: Client, far_end: FarEnd) -> None:
    with FarEnd() as elsewhere:
        far_end.fail_next("register", faults.redirect(f"{elsewhere.api_url}/runs", 307))
        answer = client.post("/runs", {})
        assert (answer.status_code, answer.headers["Location"]) == (307, f"{elsewhere.api_url}/runs")
        assert not elsewhere.journal.count()


def test_odd_json_answers(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("register", faults.without("run_id", "upload_credentials.session_token"))
    answer = client.post("/runs", {}).json()
    assert "run_id" not in answer
    assert "session_token" not in answer["upload_credentials"]
    far_end.fail_next("register", faults.with_fields(upload_uri_prefix="file:///etc"))
    assert client.post("/runs", {}).json()["upload_uri_prefix"] == "file:///etc"
    far_end.fail_next("register", faults.edited(lambda body: body["upload_credentials"].clear()))
    assert client.post("/runs", {}).json()["upload_credentials"] == {}
    far_end.fail_next("register", faults.not_json())
    assert client.post("/runs", {}).text == "OK"
    far_end.fail_next("register", faults.forbidden_keys("team", "env"))
    assert [each["loc"][1] for each in client.post("/runs", {}).json()["detail"]] == ["team", "env"]


@pytest.mark.parametrize("declares_length", [True, False])
def test_oversize_answer(client: Client, far_end: FarEnd, declares_length: bool) -> None:
    far_end.fail_next("register", faults.oversize(3, declares_length=declares_length))
    answer = client.post("/runs", {})
    assert len(answer.content) == 3_000_002
    assert ("Content-Length" in answer.headers) == declares_length
    assert not far_end.runs


def test_hostile_prefix_is_sent_as_set(client: Client, far_end: FarEnd) -> None:
    for prefix in ("file:///etc/x", "s3://", "s3://b/../x", "s3://bu\ncket/x", ""):
        far_end.service.upload_uri_prefix = prefix
        client.register()
        assert client.answer["upload_uri_prefix"] == prefix


def test_stored_without_proof_and_with_wrong_proof(client: Client, far_end: FarEnd) -> None:
    client.register()
    far_end.fail_next("put", faults.no_etag())
    assert "ETag" not in client.put("a")
    far_end.fail_next("put", faults.wrong_checksum())
    answer = client.put("b", ChecksumAlgorithm="SHA256")
    assert answer["ETag"] == f'"{"0" * 32}"'
    assert answer["ChecksumSHA256"] != base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    far_end.fail_next("put", faults.with_headers(ETag=None, x_extra="1"))
    answer = client.put("c")
    assert "ETag" not in answer
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-extra"] == "1"
    assert len(far_end.objects) == 3


def test_occupied_key_holds_something_else(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("put", faults.occupied(b"not ours"))
    assert s3_code(lambda: client.put(IfNoneMatch="*"))[0] == "PreconditionFailed"
    assert list(far_end.objects.values()) == [b"not ours"]


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_reply_lost_is_stored_and_journalled(client: Client, far_end: FarEnd, reset: bool) -> None:
    client.register()
    far_end.fail_next("put", faults.reply_lost(reset=reset))
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        client.put(IfNoneMatch="*")
    (entry,) = far_end.journal.requests("put")
    assert (entry.stored, entry.status) == (True, None)
    assert s3_code(lambda: client.put(IfNoneMatch="*")) == ("PreconditionFailed", 412)


def test_lost_reply_to_register_leaves_one_run(client: Client, far_end: FarEnd) -> None:
    far_end.fail_next("register", faults.reply_lost())
    with pytest.raises(requests.ConnectionError):
        client.post("/runs", {}, **{"Idempotency-Key": "k"})
    answer = client.post("/runs", {}, **{"Idempotency-Key": "k"}).json()
    assert far_end.run().run_id == answer["run_id"]


@pytest.mark.parametrize("fault", [faults.closed(), faults.closed(reset=True), faults.cut_upload(1000)])
def test_closed_before_the_body_is_read_stores_nothing(client: Client, far_end: FarEnd, fault: faults.Fault) -> None:
    client.register()
    far_end.fail_next("put", fault)
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        client.put(body=b"x" * 5_000_000)
    (entry,) = far_end.journal.requests("put")
    assert (entry.stored, entry.body_bytes) == (False, None)
    assert not far_end.objects


@pytest.mark.parametrize("stores", [False, True])
def test_silence_lasts_until_the_client_gives_up(far_end: FarEnd, stores: bool) -> None:
    client = Client(far_end, timeout_s=0.3)
    client.register()
    far_end.fail_next("put", faults.silent(stores=stores))
    with pytest.raises(ReadTimeoutError):
        client.put()
    assert len(far_end.objects) == stores


@pytest.mark.parametrize("fault", [faults.silent(), faults.closed(), faults.closed(reset=True)])
def test_connection_itself_meets_the_fault(far_end: FarEnd, fault: faults.Fault) -> None:
    client = Client(far_end, timeout_s=0.3)
    with far_end.always("connect", fault), pytest.raises((requests.ConnectionError, requests.ReadTimeout)):
        client.post("/runs", {})
    assert not far_end.journal.count()
    client.register()


def test_trickle_outlives_a_read_timeout(far_end: FarEnd) -> None:
    client = Client(far_end, timeout_s=0.3)
    far_end.fail_next("register", faults.trickle(interval_s=0.0015))
    started_s = time.monotonic()
    answer = client.post("/runs", {})
    assert answer.status_code == 200
    assert time.monotonic() - started_s > 2 * client.timeout_s
    far_end.fail_next("register", faults.trickle(interval_s=0.001, body_only=True))
    assert client.post("/runs", {}).json()["run_id"]


def test_half_closed_and_truncated_answers(client: Client, far_end: FarEnd) -> None:
    for fault in (faults.half_closed(), faults.half_closed(5), faults.truncated(5)):
        far_end.fail_next("register", fault)
        with pytest.raises(requests.ConnectionError):
            client.post("/runs", {})
    far_end.fail_next("register", faults.truncated(250))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        client.post("/runs", {})
    assert len(far_end.runs) == 4  # all were obeyed


def test_held_request_is_stored_before_it_is_released(client: Client, far_end: FarEnd) -> None:
    client.register()
    fault = faults.held()
    far_end.fail_next("put", fault)
    thread = threading.Thread(target=client.put)
    thread.start()
    assert fault.gate is not None
    assert fault.gate.reached.wait(60)
    assert len(far_end.objects) == far_end.journal.count("put", stored=True) == 1
    assert thread.is_alive()
    fault.gate.release()
    thread.join(5)
    assert not thread.is_alive()


def test_slow_link_and_delay_take_their_time(client: Client, far_end: FarEnd) -> None:
    client.register()
    far_end.fail_next("put", faults.slow_reading(100_000))
    started_s = time.monotonic()
    client.put(body=b"x" * 40_000)
    assert time.monotonic() - started_s >= 0.4
    far_end.fail_next("put", faults.delayed(0.3))
    client.put()
    assert far_end.journal.intervals_s("put")[0] >= 0.4


def test_down_refuses_resets_and_comes_back_on_the_same_port(client: Client, far_end: FarEnd) -> None:
    with socket.create_connection(("127.0.0.1", far_end.api.port), timeout=5) as idle:
        idle.sendall(b"POST /runs HTTP/1.1\r\n")
        url = far_end.api_url
        far_end.down()
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    with pytest.raises(requests.ConnectionError):
        client.post("/runs", {})
    far_end.up()
    assert far_end.api_url == url
    client.register()
    far_end.down("s3")
    with pytest.raises(EndpointConnectionError):
        client.put()
    client.post("/runs", {})
    far_end.up("s3")
    client.put()


def test_down_interrupts_what_is_held(far_end: FarEnd) -> None:
    client = Client(far_end)
    far_end.always("register", faults.silent())
    caught: list[Exception] = []

    def ask() -> None:
        try:
            client.post("/runs", {})
        except requests.ConnectionError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    far_end.journal.wait_for_count("register", 1)
    far_end.down()
    thread.join(5)
    assert len(caught) == 1


def test_black_hole_does_not_answer_a_connect() -> None:
    with BlackHole() as hole, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", hole.port), timeout=0.3)


def test_tls_is_verified_against_our_own_ca_only() -> None:
    with FarEnd(tls=True) as far_end:
        client = Client(far_end)
        client.put()
        assert len(far_end.objects) == 1
        with pytest.raises(requests.exceptions.SSLError):
            requests.post(far_end.api_url, timeout=60)
    for wrong in (FarEnd(tls=True, certificate_host="other.example"), FarEnd(tls=True, certificate_expired=True)):
        with wrong as far_end, pytest.raises(requests.exceptions.SSLError):
            Client(far_end).post("/runs", {})


def test_tls_spoken_to_a_plain_door_is_hung_up(far_end: FarEnd) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.post(f"https://127.0.0.1:{far_end.api.port}/runs", timeout=60)


# -- journal -----------------------------------------------------------------------------------------------------------


def test_journal_waits_and_says_what_it_saw(client: Client, far_end: FarEnd) -> None:
    threading.Timer(0.1, client.post, ("/runs", {})).start()
    (entry,) = far_end.journal.wait_for_count("register", 1)
    assert entry.outcome == "stored, 200"
    with pytest.raises(AssertionError, match="register POST /runs: stored, 200"):
        far_end.journal.wait_for(lambda journal: journal.count() > 9, deadline_s=0.1)


def test_journal_file_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    with FarEnd(journal_file=file) as far_end:
        Client(far_end).put()
        text = file.read_text()
        assert len(text.splitlines()) == 2
        assert not any(canary in text for canary in far_end.secrets() if not canary.startswith("ASIA"))


# -- as a process ------------------------------------------------------------------------------------------------------


def test_far_end_in_a_process_of_its_own(home: Home, marker: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RemoteFarEnd.start("--journal", str(journal), "--token", "canary-token") as remote:
        assert remote.token == "canary-token"
        remote.do("fail_next", kind="register", fault="answer", **{"with": {"status": 503}})
        headers = {"Authorization": "Bearer canary-token"}
        answers = [requests.post(f"{remote.api_url}/runs", json={}, headers=headers, timeout=60) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 200]
        run_id = answers[1].json()["run_id"]
        remote.do("down", door="api")
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{remote.api_url}/runs", timeout=60)
        remote.do("up")
        assert remote.evidence(run_id).finish is None
        assert remote.do("state")["requests"] == 2
        with pytest.raises(ValueError, match="unknown command"):
            remote.do("nonsense")
    assert len(journal.read_text().splitlines()) == 2


def test_process_ends_when_its_stdin_ends(home: Home, marker: str) -> None:
    command = ["-m", "tests.support.far_end"]
    with RemoteFarEnd.start() as remote:
        process: subprocess.Popen[bytes] = remote.process
    assert process.returncode == 0
    with start_program(["python3", *command], clean_environment(home, marker), stdin=True) as program:
        assert "api_url" in program.read_line()
        program.say('{"do": "stop"}')
        assert program.wait(60).exit_code == 0
