"""Fault 26: a clock that is ahead, behind, jumps, or believes in 1970. The order of rows is their sequence."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.upload.model import Outcome
from tests.support import processes
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, clean_environment, start_script
from tests.support.recorded import HEADER, Recorded, Waits, drain, problems, record
from tests.support.secrecy import secret

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("far_ends_s", "words"),
    [(-HOUR_S, "60 minutes ahead of"), (5 * HOUR_S, "300 minutes behind"), (1.7e9, "minutes behind")],
    ids=["an hour ahead", "five behind", "1970"],
)
def test_fault_26_skew_is_named_and_nothing_lost(home: Home, far_end: FarEnd, far_ends_s: float, words: str) -> None:
    """The far end's clock differs from ours: the same as ours being wrong."""
    recorded = record(home.spool_dir, far_end, segments=3)
    far_end.clock_skew_s = far_ends_s
    outcome, causes = problems(recorded, far_end, Waits(at_most=3))
    assert outcome is Outcome.WAITING
    assert set(causes) == {"clock skew"}
    assert words in (recorded.run().problem or "")
    assert far_end.journal.count("refresh") == 0  # the credentials are not suspected
    far_end.clock_skew_s = 0.0
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
def test_fault_26_credentials_live_by_the_servers_clock(home: Home, far_end: FarEnd, skew_s: float) -> None:
    """Ten minutes off, five minutes of lifetime: by our clock they were expired, or good for too long."""
    far_end.clock_skew_s = skew_s
    far_end.credentials_lifetime_s = 300.0
    recorded = record(home.spool_dir, far_end, segments=3)
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    assert far_end.journal.count("refresh") == 0
    recorded.judge(far_end)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["by S3", "inline"])
def test_fault_26_jumping_clock_does_not_change_the_order(home: Home, far_end: FarEnd, is_sealed: bool) -> None:
    times: Iterator[float] = iter([1.7e9, 0.0, 4e9, 1.0, 1.6e9, -5.0] * 50)
    recorded = record(home.spool_dir, far_end, segments=12, is_sealed=is_sealed, clock=lambda: next(times))
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)


# -- a process whose clock really is wrong -----------------------------------------------------------------------------

PROGRAM = """
import json, os, sys, time
from streaming import StreamingManager
interval, row_count = int(sys.argv[1]), int(sys.argv[2])
manager = StreamingManager(
    os.environ.pop("SENTINEL_API_TOKEN"), upload_interval=interval, host_info={}, cloud_info={},
    stop_timeout=float(sys.argv[3]), spool_interval=0.1,
)
manager.start()
for number in range(row_count):
    manager.append(b"timestamp,x\\n%d,%d\\n" % (number, number))
print(json.dumps({"year": time.gmtime().tm_year}), flush=True)
sys.stdin.readline()
print(json.dumps(manager.stop()), flush=True)
"""
ROWS = [b"%d,%d\n" % (number, number) for number in range(5)]


def libfaketime() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed (package faketime)")
    return str(found[0])


def wrong_clock(home: Home, far_end: FarEnd, marker: str, spec: str) -> dict[str, str]:
    faked = {"LD_PRELOAD": libfaketime(), "FAKETIME": spec}
    return clean_environment(home, marker, **far_end.environment(), **faked)


@pytest.mark.parametrize(
    ("spec", "year"), [("+1h", None), ("-5h", None), ("@1970-01-02 00:00:00", 1970)], ids=["+1h", "-5h", "1970"]
)
def test_fault_26_program_with_a_wrong_clock_is_delivered(
    home: Home, far_end: FarEnd, marker: str, spec: str, year: int | None
) -> None:
    """Inline: the service does not care for our clock. The times in the finish are those of the machine."""
    environment = wrong_clock(home, far_end, marker, spec)
    with start_script(PROGRAM, environment, "60", str(len(ROWS)), "30", stdin=True) as program:
        assert year in (None, json.loads(program.read_line())["year"])
        program.say("stop")
        program.wait(60).check_unfelt()
    processes.wait_gone(marker)
    (path,) = home.spool_dir.glob("*.spool")
    Recorded(path, Told(HEADER, ROWS)).judge(far_end)
    assert far_end.run().finish is not None
    assert year is None or str((far_end.run().finish or {})["finished_at"]).startswith("1970-01-02T")
    secret(far_end.secrets(), directories=[home.path])


@pytest.mark.parametrize(("spec", "words"), [("+1h", "60 minutes ahead"), ("-5h", "300 minutes behind")])
def test_fault_26_uploader_with_a_wrong_clock_names_it_and_a_right_one_delivers(
    home: Home, far_end: FarEnd, marker: str, spec: str, words: str
) -> None:
    environment = wrong_clock(home, far_end, marker, spec)
    with start_script(PROGRAM, environment, "1", str(len(ROWS)), "0", stdin=True) as program:
        program.read_line()
        (path,) = home.spool_dir.glob("*.spool")
        recorded = Recorded(path, Told(HEADER, ROWS))
        processes.eventually(lambda: recorded.run().problem_cause == "clock skew", 60, lambda: str(recorded.run()))
        assert words in (recorded.run().problem or "")
        program.say("stop")
        program.wait(60).check_unfelt()
    processes.kill_marked(marker)
    processes.wait_gone(marker)
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.DELIVERED
    recorded.judge(far_end)
