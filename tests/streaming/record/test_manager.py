"""StreamingManager: the documented class, argument for argument, and what the caller feels of it."""

import enum
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import streaming
from spool import RunState, Spool, directory, queries
from spool.model import BATCH_MAX_BYTES
from streaming import DataSource, RunStatus, StreamingManager
from streaming.errors import BadArgument
from tests.support import faults, oracle
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, eventually, wait_gone
from tests.support.wire import Answer

HEADER = b"timestamp,x\n"


@pytest.fixture(autouse=True)
def surroundings(home: Home, marker: str, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SENTINEL_API_URL", far_end.api_url)
    monkeypatch.setenv("SENTINEL_S3_ENDPOINT_URL", far_end.s3_endpoint_url)
    yield
    wait_gone(marker)


def manager_of(far_end: FarEnd, csv_path: Path | None = None, **options: Any) -> StreamingManager:
    given = {"host_info": {}, "cloud_info": {}, "upload_interval": 1, "spool_interval": 0.05, **options}
    return StreamingManager(far_end.token, None if csv_path is None else str(csv_path), **given)


# -- the documented surface --------------------------------------------------------------------------------------------


def test_signature_is_exactly_the_documented_one_and_ours_are_keyword_only() -> None:
    parameters = inspect.signature(StreamingManager).parameters
    documented = {
        "token": inspect.Parameter.empty,
        "csv_path": None,
        "upload_interval": 60,
        "metadata": None,
        "host_info": None,
        "cloud_info": None,
        "csv_update_fn": None,
    }
    ours = {
        "spool_dir": None,
        "spool_interval": 1,
        "stop_timeout": 30,
        "start_method": "spawn",
        "s3_endpoint_url": None,
        "api_url": None,
    }
    assert {name: each.default for name, each in parameters.items()} == {**documented, **ours}
    assert list(parameters) == [*documented, *ours]
    kinds = [each.kind for each in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 7 + [inspect.Parameter.KEYWORD_ONLY] * 6


def test_stop_and_the_properties_are_the_documented_ones() -> None:
    stop = inspect.signature(StreamingManager.stop).parameters
    assert {name: each.default for name, each in list(stop.items())[1:]} == {
        "exit_code": 0,
        "run_status": RunStatus.finished,
    }
    for name in ("is_alive", "run_id", "uploaded_uris"):
        assert isinstance(inspect.getattr_static(StreamingManager, name), property)


def test_enums_are_the_documented_ones() -> None:
    assert {each.name: each.value for each in RunStatus} == {"finished": "finished", "failed": "failed"}
    assert {each.name: each.value for each in DataSource} == {"s3": "s3", "inline": "inline"}


def test_public_names_are_these() -> None:
    assert sorted(streaming.__all__) == ["DataSource", "RunStatus", "StreamingManager", "runs", "track"]
    assert callable(streaming.track)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        streaming.nothing_of_that_name  # noqa: B018


# -- bad arguments -----------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty token": ({"token": ""}, ["token is empty", "SENTINEL_API_TOKEN"]),
    "blank token": ({"token": "  "}, ["token", "SENTINEL_API_TOKEN"]),
    "no token": ({"token": None}, ["token is empty"]),
    "token with a line end": ({"token": "a\nb"}, ["token"]),
    "interval is a text": ({"upload_interval": "often"}, ["upload_interval='often'", "give a number"]),
    "interval is nothing": ({"upload_interval": None}, ["upload_interval=None"]),
    "interval is not a number": ({"upload_interval": float("nan")}, ["upload_interval=nan"]),
    "interval is true": ({"upload_interval": True}, ["upload_interval=True"]),
    "CSV path": ({"csv_path": 7}, ["csv_path=7"]),
    "CSV path with a zero byte": ({"csv_path": "a\0b"}, ["csv_path=", "zero byte"]),
    "spool interval": ({"spool_interval": []}, ["spool_interval=[]"]),
    "stop timeout": ({"stop_timeout": float("inf")}, ["stop_timeout=inf"]),
    "API over plain http": ({"api_url": "http://example.com"}, ["the API URL 'http://example.com'", "https://"]),
    "API is no URL": ({"api_url": "sentinel"}, ["the API URL 'sentinel'"]),
    "S3 over plain http": ({"s3_endpoint_url": "http://10.0.0.1"}, ["the S3 endpoint URL 'http://10.0.0.1'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_argument_is_an_error_that_names_value_and_remedy(case: str) -> None:
    arguments, words = BAD[case]
    with pytest.raises(BadArgument) as told:
        StreamingManager(**{"token": "a-token", **arguments})
    assert isinstance(told.value, ValueError)
    assert told.value.hint
    assert all(word in str(told.value) for word in words), str(told.value)


def test_unknown_start_method_is_told_at_the_start(far_end: FarEnd) -> None:
    with pytest.raises(BadArgument, match="start_method='thread' is unknown"):
        manager_of(far_end, start_method="thread").start()


def recorded_intervals_s(home: Home) -> set[float]:
    """What each run says of its uploads."""
    found = set()
    for path in directory.spool_paths(home.spool_dir):
        with closing(Spool(path)) as spool:
            found.add(spool.run().upload_interval_s)
    return found


def test_interval_below_one_counts_as_one(home: Home, far_end: FarEnd) -> None:
    for interval in (0, -5, 0.2):
        manager = manager_of(far_end, upload_interval=interval)
        manager.start()
        assert manager.stop()
    assert recorded_intervals_s(home) == {1.0}


def test_waits_are_no_longer_than_the_system_can_wait(home: Home, far_end: FarEnd) -> None:
    manager = manager_of(far_end, upload_interval=10**12, spool_interval=1e300, stop_timeout=1e300)
    manager.start()
    manager.append(HEADER + b"1,a\n")
    assert manager.stop()
    oracle.conserved(far_end.evidence(), Told(HEADER, [b"1,a\n"]))
    assert recorded_intervals_s(home) == {1e6}


class Stumbling(StreamingManager):
    """Something in the feeder that nobody foresaw, at its every look."""

    def _tend(self) -> None:
        assert self._csv_path is not None
        raise LookupError(self._csv_path.read_text())


def test_feeder_goes_on_after_what_nobody_foresaw_and_tells_it_once_without_quoting(
    far_end: FarEnd, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    manager = Stumbling(far_end.token, str(csv_path), host_info={}, cloud_info={}, spool_interval=0.05)
    manager.start()
    eventually(lambda: "feeder.defect" in caplog.text)
    csv_path.write_bytes(HEADER + b"1,a\n2,b\n")
    eventually(lambda: recorded_rows(home) == 2)
    assert manager.stop()
    assert caplog.text.count("feeder.defect: LookupError") == 1
    assert "1,a" not in caplog.text


def recorded_rows(home: Home) -> int:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        return queries.counts(spool.connection).recorded


def test_csv_update_fn_that_exits_stops_nothing(far_end: FarEnd, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    manager = manager_of(far_end, csv_path, csv_update_fn=sys.exit)
    manager.start()
    eventually(lambda: recorded_rows(home) == 1)
    assert manager.stop()
    assert caplog.text.count("csv_update.failed: SystemExit") == 1


def test_start_after_stop_records_nothing_and_says_so(far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(far_end)
    manager.start()
    manager.start()
    assert "run.over" not in caplog.text
    manager.stop()
    manager.start()
    assert "run.over: start() after stop() does nothing; a new StreamingManager" in caplog.text


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (lambda: "a,b\n1,2\n", "takes bytes, not str"),
        (lambda: bytearray(b"a,b\n1,2\n"), "takes bytes, not bytearray"),
        (lambda: b"a,b\n1,2", "takes whole lines"),
        (lambda: bytes(BATCH_MAX_BYTES) + b"\n", "are too many for one append"),
    ],
    ids=["text", "bytearray", "unfinished", "enormous"],
)
def test_what_append_cannot_take_is_told_with_the_remedy(far_end: FarEnd, lines: Callable[[], Any], words: str) -> None:
    manager = manager_of(far_end)
    manager.start()
    with pytest.raises(BadArgument, match=words) as told:
        manager.append(lines())
    assert told.value.hint
    manager.append(HEADER + b"1,a\n")
    assert manager.stop()
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)


# -- a run's life ------------------------------------------------------------------------------------------------------


def test_rows_of_a_growing_csv_arrive_and_stop_returns_the_answer(far_end: FarEnd, home: Home) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    far_end.always("register", faults.with_fields(page="/run/abc-1"))
    manager = manager_of(far_end, csv_path, metadata={"job_name": "train"})
    assert (manager.is_alive, manager.id, manager.url, manager.uploaded_uris) == (False, None, None, [])
    manager.start()
    manager.start()
    assert manager.is_alive
    run_id = manager.wait_until_registered(30)
    assert run_id == manager.id == far_end.run().run_id
    assert manager.url == f"{far_end.api_url}/run/abc-1"
    eventually(lambda: manager.uploaded_uris)
    csv_path.write_bytes(csv_path.read_bytes() + b"2,b\n3,c")
    answer = manager.stop(exit_code=4, run_status="failed")
    assert answer
    assert manager.stop() == answer
    assert far_end.run().metadata["job_name"] == "train"
    assert manager.uploaded_uris == far_end.evidence().named_uris()
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n2,b\n3,c\n"]), run_status="failed", exit_code=4)


def test_names_that_are_not_utf8_are_as_good_as_others(far_end: FarEnd, home: Home) -> None:
    folder = Path(os.fsdecode(bytes(home.path) + b"/\xff\xfe"))
    folder.mkdir()
    csv_path = folder / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    manager = manager_of(far_end, csv_path, spool_dir=folder / "spool", metadata={"command": [str(csv_path)]})
    manager.start()
    with closing(Spool(next((folder / "spool").glob("*.spool")))) as spool:
        assert spool.run().csv_path == str(csv_path)
    assert manager.stop()
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)


def test_stop_before_start_is_harmless_and_start_still_works(far_end: FarEnd) -> None:
    manager = manager_of(far_end)
    assert manager.stop() == {}
    assert far_end.journal.count() == 0


def test_stop_without_rows_finishes_the_run(far_end: FarEnd) -> None:
    manager = manager_of(far_end)
    manager.start()
    assert manager.stop()
    oracle.judge(far_end.evidence(), Told(HEADER, []), run_status="finished", exit_code=0)


def test_stop_that_comes_too_early_for_the_network_returns_empty_and_says_how_to_go_on(
    far_end: FarEnd, caplog: pytest.LogCaptureFixture, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_STREAM_LINGER", "0")
    far_end.down()
    manager = manager_of(far_end, stop_timeout=0.3)
    manager.start()
    manager.append(HEADER + b"1,a\n2,b\n")
    with caplog.at_level(logging.WARNING):
        assert manager.stop() == {}
    (told,) = [record.getMessage() for record in caplog.records if "run.waiting" in record.getMessage()]
    assert "2 row(s)" in told
    assert str(home.spool_dir) in told
    assert "tracker-stream drain" in told


class TheirStatus(enum.Enum):
    failed = "failed"


@pytest.mark.parametrize("status", [RunStatus.failed, "failed", TheirStatus.failed])
def test_status_may_be_ours_theirs_or_a_text(far_end: FarEnd, status: Any) -> None:
    manager = manager_of(far_end)
    manager.start()
    manager.stop(exit_code=1, run_status=status)
    oracle.live(far_end.evidence(), run_status="failed", exit_code=1)


@pytest.mark.parametrize("name", ["finished", "failed"])
def test_status_of_the_tracker_that_we_serve_is_told_by_its_value(far_end: FarEnd, name: str) -> None:
    """ResourceTracker passes a member of its own enum, which is no member of ours."""
    from resource_tracker.streaming import RunStatus as Theirs

    status = Theirs[name]
    manager = manager_of(far_end)
    manager.start()
    manager.stop(run_status=status)
    assert (far_end.run().finish or {})["run_status"] == status.value


def test_empty_answer_to_the_finish_is_an_answer(far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    far_end.always("finish", faults.Fault("empty object", edit=lambda _: Answer.of_json(200, {})))
    manager = manager_of(far_end)
    manager.start()
    manager.append(HEADER + b"1,a\n")
    assert manager.stop() == {}
    assert "run.waiting" not in caplog.text
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)


def test_start_from_many_threads_makes_one_run(far_end: FarEnd, home: Home) -> None:
    manager = manager_of(far_end)
    together = threading.Barrier(8)

    def start() -> None:
        together.wait(30)
        manager.start()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    manager.append(HEADER + b"1,a\n")
    assert manager.stop()
    assert len(directory.spool_paths(home.spool_dir)) == 1
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)


def test_unknown_status_counts_as_failed_and_is_told(far_end: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(far_end)
    manager.start()
    manager.stop(run_status="levitating")
    oracle.live(far_end.evidence(), run_status="failed")
    assert "run_status.unknown" in caplog.text


# -- append ------------------------------------------------------------------------------------------------------------


def test_append_takes_whole_lines_between_start_and_stop_only(far_end: FarEnd) -> None:
    manager = manager_of(far_end)
    with pytest.raises(BadArgument, match="before start"):
        manager.append(HEADER)
    manager.start()
    with pytest.raises(BadArgument, match="whole lines"):
        manager.append(HEADER + b"1,a")
    manager.append(HEADER)
    manager.append(b"1,a\n2,b\n")
    manager.append(HEADER + b"3,c\n")
    manager.append(b"timestamp,x,y\n4,d,e\n")
    manager.stop()
    with pytest.raises(Exception, match="has ended"):
        manager.append(b"5,e,f\n")
    told = Told(HEADER, [b"1,a\n2,b\n3,c\n", (b"timestamp,x,y\n", b"4,d,e\n")])
    oracle.judge(far_end.evidence(), told, run_status="finished", exit_code=0)


# -- csv_update_fn -----------------------------------------------------------------------------------------------------


def test_update_function_brings_the_last_rows_before_the_run_ends(far_end: FarEnd, home: Home) -> None:
    csv_path = home.path / "rows.csv"
    rows: list[bytes] = []

    def update() -> None:
        rows.append(b"%d,a\n" % len(rows))
        csv_path.write_bytes(HEADER + b"".join(rows))

    manager = manager_of(far_end, csv_path, csv_update_fn=update)
    manager.start()
    eventually(lambda: len(rows) > 1)
    manager.stop()
    oracle.judge(far_end.evidence(), Told(HEADER, rows), run_status="finished", exit_code=0)


def test_failing_update_function_is_told_once_and_harms_nothing(
    far_end: FarEnd, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")

    def update() -> None:
        raise RuntimeError("the tracker is not ready")

    manager = manager_of(far_end, csv_path, csv_update_fn=update)
    manager.start()
    far_end.journal.wait_for_count("put", 1, 30)
    manager.stop()
    assert caplog.text.count("csv_update.failed") == 1
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)


@pytest.mark.parametrize("answer", [faults.json_answer(200, {}), faults.answer(200, b"")], ids=["no fields", "no body"])
def test_finish_that_is_answered_with_nothing_is_no_run_that_waits(
    far_end: FarEnd, home: Home, caplog: pytest.LogCaptureFixture, answer: faults.Fault
) -> None:
    manager = manager_of(far_end)
    manager.start()
    manager.append(HEADER + b"1,a\n")
    with far_end.always("finish", answer):
        assert manager.stop() == {}
    assert "not delivered in time" not in caplog.text
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        assert spool.run().state is RunState.FINISHED
