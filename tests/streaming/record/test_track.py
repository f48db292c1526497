"""`streaming.track`: what its arguments may be. Its runs are in tests/e2e."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from spool import Spool
from streaming import track
from streaming.errors import BadArgument
from streaming.record.track import _exit_code
from tests.support.processes import Home, wait_gone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interval": "often"}, "interval='often'"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"upload_interval": None}, "upload_interval=None"),
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
