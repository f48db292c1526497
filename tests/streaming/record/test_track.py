"""`streaming.track`: what its arguments may be. Its runs are in tests/e2e."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from spool import Run, Spool
from streaming import track
from streaming.errors import BadArgument
from streaming.record.track import _exit_code
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.processes import Home, clean_environment, run_script, wait_gone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interval": "often"}, "interval='often'"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"interval": -1}, "interval=-1"),
        ({"interval": 0}, "interval=0"),
        ({"upload_interval": -1}, "upload_interval=-1"),
        ({"jobname": "x"}, "'jobname' is not a metadata field: did you mean job_name"),
        ({"tags": {"a": {"b": 1}}}, "the tag 'a'"),
        ({"tags": {1: "b"}}, "the tag 1"),
        ({"tags": "a=b"}, "cannot be used"),
        ({"team": ["a", "b"]}, "cannot be sent"),
        ({"stop_timeout": float("inf")}, "stop_timeout=inf"),
        ({"token": "a\nb"}, "the token is not a printable text"),
        ({"host_info": {1j: "no key"}}, "host_info cannot be sent"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_argument_is_an_error_that_names_it(home: Home, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words) as told:
        track(**arguments)
    assert told.value.hint


def test_waits_that_make_no_sense_are_brought_into_bounds(home: Home, marker: str) -> None:
    class Colour(enum.Enum):
        red = 1

    with track(interval=1e300, upload_interval=1e300, host_info={"vcpus": 3, "case": Colour.red}, cloud_info={}):
        pass
    (path,) = home.spool_dir.glob("*.spool")
    run = Spool(path).run()
    assert (run.upload_interval_s, run.host_info, run.exit_code) == (1e6, {"vcpus": 3, "case": "Colour.red"}, 0)
    wait_gone(marker)


@pytest.mark.parametrize(
    ("code", "expected"), [(None, 0), (0, 0), (5, 5), (-3, -3), ("text", 1), (10**30, 255), (-(10**30), 255)]
)
def test_exit_of_the_block_is_a_code_that_can_be_kept(code: Any, expected: int) -> None:
    assert _exit_code(SystemExit(code)) == expected


def test_function_whose_call_does_not_run_it_is_refused(home: Home) -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(BadArgument, match="does not run when it is called"):
            track()(function)


def test_block_that_is_entered_twice_is_two_runs_each_with_its_own_end(home: Home, marker: str) -> None:
    shared = track(host_info={}, cloud_info={})
    with shared, suppress(LookupError), shared:
        raise LookupError
    wait_gone(marker)
    assert sorted(Spool(path).run().exit_code or 0 for path in home.spool_dir.glob("*.spool")) == [0, 1]


SETTINGS = """
import sys, streaming
with streaming.track(team="given", tags={"fold": 3}, host_info={}, cloud_info={}):
    pass
"""


def only_run(home: Home) -> Run:
    (path,) = home.spool_dir.glob("*.spool")
    with closing(Spool(path)) as spool:
        return spool.run()


def test_environment_fills_in_what_was_not_given(home: Home, marker: str) -> None:
    environment = clean_environment(
        home,
        marker,
        TRACKER_TEAM="environment",
        TRACKER_JOB_NAME="environment",
        TRACKER_TAGS="fold=4,seed=7",
        TRACKER_UPLOAD_INTERVAL="7",
    )
    assert run_script(SETTINGS, environment).exit_code == 0
    run = only_run(home)
    assert (run.metadata["team"], run.metadata["job_name"], run.upload_interval_s) == ("given", "environment", 7.0)
    assert (run.metadata["tags"]["fold"], run.metadata["tags"]["seed"]) == (3, "7")
    wait_gone(marker)


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_mode_of_the_environment_is_obeyed_without_any_wait(
    home: Home, marker: str, far_end: FarEnd, mode: str
) -> None:
    far_end.down()
    environment = clean_environment(home, marker, **far_end.environment(), TRACKER_STREAM_MODE=mode)
    result = run_script(SETTINGS, environment)
    assert (result.exit_code, result.stderr) == (0, b"")
    assert result.duration_s < 20  # the default wait is 30 s
    assert home.spool_dir.exists() == (mode == "offline")
    assert far_end.journal.count() == 0
    wait_gone(marker)


def test_exit_wait_of_the_environment_is_obeyed(home: Home, marker: str, far_end: FarEnd) -> None:
    far_end.down()
    settings = {"TRACKER_STREAM_EXIT_WAIT": "0", "TRACKER_STREAM_LINGER": "1"}
    result = run_script(SETTINGS, clean_environment(home, marker, **far_end.environment(), **settings))
    assert result.exit_code == 0
    assert result.duration_s < 20
    wait_gone(marker)


LINKED = """
import sys, time, streaming
tracked = streaming.track(host_info={}, cloud_info={})
before = tracked.id, tracked.url
with tracked as run:
    give_up_at = time.monotonic() + 30
    while run.url is None and time.monotonic() < give_up_at:
        time.sleep(0.05)
    print(before, run.id, run.url)
print(run.id, run.url)
"""


def test_block_knows_its_id_and_page_as_soon_as_the_service_has_told(home: Home, marker: str, far_end: FarEnd) -> None:
    far_end.always("register", faults.with_fields(page="/run/abc-1"))
    far_end.always("finish", faults.with_fields(page="/run/abc-1"))
    result = run_script(LINKED, clean_environment(home, marker, **far_end.environment()))
    told = f"{far_end.run().run_id} {far_end.api_url}/run/abc-1"
    assert result.stdout.decode().splitlines() == [f"(None, None) {told}", told], result.stderr
    wait_gone(marker, 60)


NESTED = """
import logging, streaming, time
logging.basicConfig()
common = dict(host_info={}, cloud_info={}, stop_timeout=0.5)
with streaming.track(job_name="outer", **common):
    for _ in range(3):
        before = time.monotonic()
        with streaming.track(job_name="inner", host_info={}, cloud_info={}, stop_timeout=600):
            pass
    print("left")
"""


def test_inner_block_is_not_waited_for_within_the_outer_one(home: Home, marker: str, far_end: FarEnd) -> None:
    """Its wait would be recorded as the outer block's work; and the waits would add up."""
    with far_end.always("finish", faults.json_answer(503, {})):
        settings = {**far_end.environment(), "TRACKER_STREAM_LINGER": "1"}
        result = run_script(NESTED, clean_environment(home, marker, **settings), deadline_s=120)
    assert (result.exit_code, result.stdout) == (0, b"left\n")
    assert len(list(home.spool_dir.glob("*.spool"))) == 4
    wait_gone(marker, 60)
