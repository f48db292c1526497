"""Fault 27: the machine sleeps for eight hours. Processes are stopped, the clock that counts sleep is ahead afterwards."""

import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool, directory, queries
from tests.support import oracle, programs
from tests.support.far_end import FarEnd
from tests.support.processes import (
    Home,
    clean_environment,
    eventually,
    kill,
    kill_marked,
    marked,
    start_program,
    start_script,
    wait_gone,
)
from tests.support.programs import read_until, surroundings, told
from tests.support.shim import preload

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")

EIGHT_HOURS_S = 8 * 3600


def test_fault_27_after_eight_hours_of_sleep_credentials_are_refreshed_before_they_are_refused(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    boottime = home.tmp_dir / "boottime"
    environment = surroundings(home, marker, far_end, **preload(home.tmp_dir, SHIM_BOOTTIME=str(boottime)))
    with start_script(programs.APPENDING, environment, stdin=True) as program:
        read_until(program, "ready")
        far_end.journal.wait_for_count("put", 1, 30)
        kill_marked(marker, signal.SIGSTOP)
        boottime.write_text(str(EIGHT_HOURS_S))
        far_end.expire_now()
        far_end.reset_connections()
        kill_marked(marker, signal.SIGCONT)
        eventually(lambda: "machine.slept" in programs.log_of(home.spool_dir), 60, "the sleep was not noticed")
        program.say("go on")
        program.wait().check_unfelt()
    wait_gone(marker)
    assert far_end.journal.count("refresh") == 1
    assert {entry.status for entry in far_end.journal.requests("put")} == {200}
    oracle.judge(far_end.evidence(), told(12), run_status="finished", exit_code=0)


def test_fault_27_deadline_of_a_delivery_does_not_count_the_sleep(home: Home, marker: str, far_end: FarEnd) -> None:
    """The run has ended and the far end is down when the machine falls asleep; awake again, the rest is delivered."""
    boottime = home.tmp_dir / "boottime"
    environment = surroundings(home, marker, far_end, **preload(home.tmp_dir, SHIM_BOOTTIME=str(boottime)))
    far_end.down()
    with start_script(programs.APPENDING, environment, stdin=True) as program:
        read_until(program, "ready")
        eventually(lambda: "delivery.delayed" in programs.log_of(home.spool_dir), 60, "the uploader never tried")
        program.kill()
        eventually(lambda: "run.tracker_died" in programs.log_of(home.spool_dir), 60, "its death was not noticed")
    kill_marked(marker, signal.SIGSTOP)
    boottime.write_text(str(EIGHT_HOURS_S))
    far_end.up()
    kill_marked(marker, signal.SIGCONT)
    far_end.wait_finished()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


COUNTING_TO_200 = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
    signal.signal(number, lambda number, _: os.write(1, b"got %d\\n" % number))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["run", "track"])
def test_two_hundred_suspends_change_nothing(home: Home, marker: str, way: str) -> None:
    """A laptop's lid: each of our processes is stopped past the moment at which it would have taken a sample."""
    run = [sys.executable, "-m", "streaming", "run", "-i", "0.01", "--", sys.executable, "-c", COUNTING_TO_200]
    tracked = f"import streaming\nwith streaming.track(interval=0.01, host_info={{}}, cloud_info={{}}):{IN_BLOCK}"
    command = run if way == "run" else [sys.executable, "-c", tracked]
    with start_program(command, clean_environment(home, marker), stdin=True) as program:
        assert program.read_line() == "ready"
        (path,) = eventually(lambda: directory.spool_paths(home.spool_dir))
        eventually(lambda: recorded_rows(path) > 0, 30, "no row was recorded")
        ours = [each for each in marked(marker) if f" {way}" in each.command or " tracker " in each.command]
        for _ in range(200):
            for process in ours:
                kill(process, signal.SIGSTOP)
            time.sleep(0.015)  # longer than the interval: that is the fault
            for process in ours:
                kill(process, signal.SIGCONT)
        before = recorded_rows(path)
        eventually(lambda: recorded_rows(path) > before + 5, 30, "no row was recorded after the suspends")
        program.say("end")
        result = program.wait(60)
    assert (result.exit_code, result.stdout) == (0, b"")
    assert b"defect" not in result.stderr
    with closing(Spool(path)) as spool:
        assert (spool.run().exit_code, spool.run().run_status) == (0, "finished")
    wait_gone(marker)


APPENDING_ALL_THE_TIME = (
    programs.PREAMBLE
    + """
import select
manager = new_manager(upload_interval=0.05)
manager.start()
number = 0
while not select.select([sys.stdin], [], [], 0.002)[0]:
    append(manager, number, number + 1)
    number += 1
assert manager.stop()
"""
)


def test_two_hundred_suspends_of_the_engine_while_it_delivers_lose_and_double_nothing(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    with start_script(APPENDING_ALL_THE_TIME, surroundings(home, marker, far_end), stdin=True) as program:
        far_end.journal.wait_for_count("put", 1, 30)
        (engine,) = programs.uploaders(marker)
        for number in range(200):
            kill(engine, signal.SIGSTOP)
            time.sleep(0.001 * (number % 10))
            kill(engine, signal.SIGCONT)
            time.sleep(0.01)
        sent = far_end.journal.count("put")
        far_end.journal.wait_for_count("put", sent + 2, 60)
        assert programs.uploaders(marker) == [engine], "it is still the same"
        program.say("end")
        result = program.wait(60)
    assert (result.exit_code, result.stderr) == (0, b"")
    oracle.judge(far_end.evidence(), told(result.stdout.count(b"appended")), run_status="finished", exit_code=0)
    wait_gone(marker)


IN_BLOCK = """
    print("ready", flush=True)
    input()
"""


def recorded_rows(path: Path) -> int:
    with closing(Spool(path)) as spool:
        return queries.counts(spool.connection).recorded
