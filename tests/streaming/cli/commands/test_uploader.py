"""The engine as people see it: named by `status`, `doctor` and `uploader status`, ended by `uploader stop`."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from spool import RunState, Spool
from streaming.processes import engine_link
from streaming.record.plan import Delivery
from tests.streaming.cli.conftest import InProcess
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.processes import Home, eventually, kill
from tests.support.programs import uploaders
from tests.support.recorded import record


@pytest.fixture
def pid(home: Home, far_end: FarEnd, marker: str) -> Iterator[int]:
    """Of an engine that a tracker has given a run which the service cannot take now."""
    far_end.always("register", faults.answer(503))
    path = record(home.spool_dir, far_end).path
    with closing(engine_link.find_or_start(home.spool_dir)) as link:
        link.tell(Delivery(far_end.token, far_end.api_url, far_end.s3_endpoint_url, 1.0, 600.0).order(path))
        eventually(lambda: any(event["event"] == "problem" for event in link.events(0.1)), 30)
        assert link.engine_pid is not None
        yield link.engine_pid
    for process in uploaders(marker):
        kill(process)


def test_whoever_asks_is_told_which_process_delivers_and_what_it_met(cli: InProcess, pid: int) -> None:
    for command in (["status"], ["uploader", "status"]):
        (line,) = [line for line in cli(*command).stdout.splitlines() if line.startswith("Uploader: ")]
        assert f"pid {pid}, for " in line
        assert "1 run, " in line
        assert "503" in line
    (told,) = json.loads(cli("status", "--json").stdout)["uploaders"]
    assert told["pid"] == pid
    findings = json.loads(cli("doctor", "--json").stdout)["findings"]
    assert [each["text"] for each in findings if each["check"] == "uploader"] == [f"pid {pid} with 1 run(s)"]


def test_stop_sends_what_is_there_and_says_that_it_has_ended(
    cli: InProcess, home: Home, far_end: FarEnd, pid: int
) -> None:
    far_end.clear()
    assert "has ended" in cli("uploader", "stop").stdout
    assert "No uploader serves" in cli("uploader", "stop").stdout
    (path,) = home.spool_dir.glob("*.spool")
    with closing(Spool(path)) as spool:
        assert spool.run().state is RunState.FINISHED
