"""Faults 3 and 4: the user's program is killed (SIGKILL), alone or together with everything of ours."""

import sys
from pathlib import Path

import pytest

from spool import RunState, Spool, directory
from tests.support import oracle, programs
from tests.support.far_end import FarEnd
from tests.support.processes import (
    Home,
    Program,
    ProgramResult,
    eventually,
    kill,
    kill_marked,
    marked,
    start_program,
    start_script,
    wait_gone,
)
from tests.support.programs import read_until, surroundings, told

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")


def drain(environment: dict[str, str], *options: str) -> ProgramResult:
    with start_program([sys.executable, "-m", "streaming", "drain", *options], environment) as program:
        return program.wait()


def waiting_program(script: str, environment: dict[str, str], *arguments: str) -> Program:
    program = start_script(script, environment, *arguments, stdin=True)
    read_until(program, "ready")
    return program


def test_fault_03_both_killed_at_once_is_finished_as_failed_by_drain(home: Home, marker: str, far_end: FarEnd) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment):
        far_end.journal.wait_for_count("register", 1, 20)
        kill_marked(marker)
        wait_gone(marker)
    assert drain(environment).check_unfelt().stdout.split()[-1] == b"delivered"
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_03_both_killed_before_the_network_was_there_is_delivered_by_drain(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    far_end.down()
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment):
        kill_marked(marker)
        wait_gone(marker)
    far_end.up()
    drain(environment).check_unfelt()
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_03_next_start_with_the_same_token_adopts_the_dead_run(home: Home, marker: str, far_end: FarEnd) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment):
        far_end.journal.wait_for_count("register", 1, 20)
        kill_marked(marker)
        wait_gone(marker)
    dead = far_end.run().run_id
    with waiting_program(programs.APPENDING, environment) as program:
        program.say("go on")
        program.wait().check_unfelt()
    far_end.wait_finished(dead, 30)
    wait_gone(marker)
    (living,) = (run.run_id for run in far_end.runs if run.run_id != dead)
    oracle.judge(far_end.evidence(dead), told(10), run_status="failed", exit_code=None)
    oracle.judge(far_end.evidence(living), told(12), run_status="finished", exit_code=0)


def test_fault_03_start_with_another_token_leaves_the_dead_run_alone(home: Home, marker: str, far_end: FarEnd) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment):
        far_end.journal.wait_for_count("register", 1, 20)
        kill_marked(marker)
        wait_gone(marker)
    dead = far_end.run().run_id
    other = "canary-api-token-of-somebody-else"
    far_end.accept_token(other)
    with waiting_program(programs.APPENDING, environment | {"SENTINEL_API_TOKEN": other}) as program:
        program.say("go on")
        program.wait().check_unfelt()
    wait_gone(marker)
    assert far_end.run(dead).finish is None
    drain(environment).check_unfelt()
    oracle.judge(far_end.evidence(dead), told(10), run_status="failed", exit_code=None)


@pytest.mark.parametrize("spool_interval", ["0.1", "30"], ids=["fed", "not yet fed"])
def test_fault_03_rest_of_the_csv_file_of_a_dead_run_is_taken_over_by_drain(
    home: Home, marker: str, far_end: FarEnd, spool_interval: str
) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.WRITING, environment, spool_interval):
        kill_marked(marker)
        wait_gone(marker)
    drain(environment).check_unfelt()
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_04_killed_program_is_noticed_and_its_run_finished_as_failed(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment) as program:
        far_end.journal.wait_for_count("register", 1, 20)
        program.kill()
    far_end.wait_finished()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)
    assert "run.tracker_died" in programs.log_of(home.spool_dir)


def test_fault_04_uploader_takes_over_the_rest_of_a_killed_programs_csv(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.WRITING, environment, "30") as program:
        program.kill()
    far_end.wait_finished()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_04_drain_of_a_killed_programs_run_is_bounded_when_nobody_answers(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    far_end.down()
    environment = surroundings(home, marker, far_end, TRACKER_STREAM_LINGER="1")
    with waiting_program(programs.APPENDING, environment) as program:
        eventually(lambda: len(marked(marker)) > 1, 20, "no uploader was started")
        program.kill()
    wait_gone(marker)
    (path,) = directory.spool_paths(home.spool_dir)
    assert state_of(path) is RunState.ENDED
    far_end.up()
    drain(environment).check_unfelt()
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_04_drain_while_the_program_lives_uploads_and_does_not_finish(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    """The counterpart: a living tracker is not mistaken for a dead one."""
    environment = surroundings(home, marker, far_end)
    with waiting_program(programs.APPENDING, environment) as program:
        far_end.journal.wait_for_count("register", 1, 20)
        for uploader in programs.uploaders(marker):
            kill(uploader)
        drain(environment).check_unfelt()
        assert far_end.run().finish is None
        program.say("go on")
        program.wait().check_unfelt()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(12), run_status="finished", exit_code=0)


TRACKED = """
import time
import streaming
with streaming.track(job_name="killed", interval=0.1, upload_interval=1, host_info={}, cloud_info={}):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_fault_04_killed_program_with_a_tracked_block_is_finished_as_failed(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    with waiting_program(TRACKED, surroundings(home, marker, far_end)) as program:
        far_end.journal.wait_for_count("put", 1, 60)
        program.kill()
    far_end.wait_finished()
    wait_gone(marker)
    (path,) = directory.spool_paths(home.spool_dir)
    oracle.judge(far_end.evidence(), programs.recorded(path), run_status="failed", exit_code=None)


def test_fault_04_killed_tracker_of_a_command_ends_the_run_and_leaves_the_command_alone(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    done = home.path / "done"
    work = f"import sys, pathlib; sys.stdin.readline(); pathlib.Path({str(done)!r}).write_text('whole')"
    command = [sys.executable, "-m", "streaming", "run", "-i", "0.1", "--upload-interval", "1", "--"]
    environment = surroundings(home, marker, far_end)
    with start_program([*command, sys.executable, "-c", work], environment, stdin=True) as program:
        far_end.journal.wait_for_count("put", 1, 60)
        program.popen.kill()
        far_end.wait_finished()
        program.say("go on")
        eventually(done.exists, 30, "the command did not live on")
    wait_gone(marker)
    (path,) = directory.spool_paths(home.spool_dir)
    oracle.judge(far_end.evidence(), programs.recorded(path), run_status="failed", exit_code=None)


def state_of(path: Path) -> RunState:
    spool = Spool(path)
    try:
        return spool.run().state
    finally:
        spool.close()
