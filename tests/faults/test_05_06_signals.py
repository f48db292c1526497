"""Faults 5 and 6: Ctrl-C at a terminal, once and twice; SIGTERM to every process and SIGKILL later, as SLURM does."""

import signal
import sys
from pathlib import Path

import pytest

from spool import SegmentState, Spool, directory
from tests.support import faults, oracle, processes, programs
from tests.support.ctrl_c import TerminalProgram
from tests.support.far_end import FarEnd
from tests.support.processes import Home, eventually, kill, kill_marked, marked, start_program, wait_gone
from tests.support.programs import read_until, surroundings, told

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")

INTERRUPTED = (
    programs.PREAMBLE
    + """
manager = new_manager()
manager.start()
append(manager, 0, 10)
say("ready")
try:
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    say("interrupted, alive:", manager.is_alive)
    if sys.argv[1] == "stops":
        manager.stop(130, "failed")
        sys.exit(7)
    raise
"""
)
PATIENT = (
    programs.PREAMBLE
    + """
manager = new_manager()
manager.start()
append(manager, 0, 10)
say("ready")
time.sleep(60)
"""
)


def on_terminal(script: str, environment: dict[str, str], *arguments: str) -> TerminalProgram:
    path = Path(environment["HOME"], "program.py")
    path.write_text(script)
    return TerminalProgram.start([sys.executable, path, *arguments], environment)


def test_fault_05_ctrl_c_is_a_normal_keyboard_interrupt_and_stop_still_delivers(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    with on_terminal(INTERRUPTED, surroundings(home, marker, far_end), "stops") as program:
        program.wait_for(b"ready")
        far_end.journal.wait_for_count("register", 1, 20)
        program.press_ctrl_c()
        program.wait_for(b"interrupted, alive: True")
        assert program.wait() == 7
        assert b"Traceback" not in program.screen
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=130)


def test_fault_05_uncaught_ctrl_c_ends_the_program_as_usual_and_the_run_as_failed(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    with on_terminal(INTERRUPTED, surroundings(home, marker, far_end), "raises") as program:
        program.wait_for(b"ready")
        far_end.journal.wait_for_count("register", 1, 20)
        program.press_ctrl_c()
        assert program.wait() == -signal.SIGINT
        assert program.screen.count(b"Traceback") == 1
        assert b"KeyboardInterrupt" in program.screen
    far_end.wait_finished()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed")


@pytest.mark.parametrize("ending", ["stops", "raises"])
def test_fault_05_second_ctrl_c_interrupts_the_wait_for_delivery_and_loses_nothing(
    home: Home, marker: str, far_end: FarEnd, ending: str
) -> None:
    held = faults.held()
    far_end.fail_next("finish", held)
    with on_terminal(INTERRUPTED, surroundings(home, marker, far_end), ending) as program:
        program.wait_for(b"ready")
        far_end.journal.wait_for_count("register", 1, 20)
        program.press_ctrl_c()
        program.wait_for(b"interrupted")
        assert held.gate is not None
        assert held.gate.reached.wait(30)
        program.press_ctrl_c()
        assert program.wait() == -signal.SIGINT
        assert processes.marked(marker), "the uploader died of Ctrl-C"
        held.gate.release()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed")


def test_fault_05_ctrl_c_in_a_tracked_command_reaches_it_once_and_is_its_exit_code(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    count = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('got one', flush=True))\n"
        "print('ready', flush=True)\n"
        "for _ in range(600):\n"
        "    time.sleep(0.1)\n"
    )
    script = home.path / "count.py"
    script.write_text(count)
    command = [sys.executable, "-m", "streaming", "run", "-i", "0.1", "--upload-interval", "1", "--"]
    environment = surroundings(home, marker, far_end)
    with TerminalProgram.start([*command, sys.executable, script], environment) as program:
        program.wait_for(b"ready")
        program.press_ctrl_c()
        program.wait_for(b"got one")
        for process in marked(marker):
            if "count.py" in process.command and "streaming" not in process.command:
                kill(process, signal.SIGINT)
                program.screen.clear()
                program.wait_for(b"got one")
                kill(process)
        assert program.wait() == 128 + signal.SIGKILL
        assert program.screen.count(b"got one") == 1
    far_end.wait_finished()
    wait_gone(marker)
    oracle.live(far_end.evidence(), run_status="failed", exit_code=128 + signal.SIGKILL)


def test_fault_06_sigterm_to_every_process_flushes_while_the_network_is_up(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    with start_script_and_wait(PATIENT, surroundings(home, marker, far_end)) as program:
        far_end.journal.wait_for_count("register", 1, 20)
        kill_marked(marker, signal.SIGTERM)
        assert program.wait().exit_code == -signal.SIGTERM
        far_end.wait_finished()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_06_sigterm_then_sigkill_without_network_keeps_every_row_and_marks_nothing(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    environment = surroundings(home, marker, far_end)
    with start_script_and_wait(PATIENT, environment) as program:
        far_end.journal.wait_for_count("put", 1, 20)
        stored = set(far_end.objects)
        far_end.down()
        kill_marked(marker, signal.SIGTERM)
        program.wait()
        kill_marked(marker)
        wait_gone(marker)
    (path,) = directory.spool_paths(home.spool_dir)
    assert marked_sent(path) <= stored | set(far_end.objects)
    far_end.up()
    with start_program([sys.executable, "-m", "streaming", "drain"], environment) as draining:
        draining.wait().check_unfelt()
    oracle.judge(far_end.evidence(), told(10), run_status="failed", exit_code=None)


def test_fault_06_sigterm_to_every_process_of_a_tracked_command_ends_it_as_143(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    command = [sys.executable, "-m", "streaming", "run", "-i", "0.1", "--upload-interval", "1", "--", "sleep", "60"]
    with start_program(command, surroundings(home, marker, far_end)) as program:
        far_end.journal.wait_for_count("put", 1, 30)
        kill_marked(marker, signal.SIGTERM)
        assert program.wait().exit_code == 128 + signal.SIGTERM
    far_end.wait_finished()
    wait_gone(marker)
    oracle.live(far_end.evidence(), run_status="failed", exit_code=128 + signal.SIGTERM)


def test_fault_06_uploader_asked_to_hurry_leaves_in_time_when_nobody_answers(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    """SIGTERM to the uploader alone, far end down: it gives up by itself, long before it would otherwise."""
    far_end.down()
    with start_script_and_wait(PATIENT, surroundings(home, marker, far_end, TRACKER_STREAM_LINGER="2")) as program:
        eventually(lambda: "delivery.delayed" in programs.log_of(home.spool_dir), 30, "the uploader never tried")
        (uploader,) = programs.uploaders(marker)
        kill(uploader, signal.SIGTERM)
        program.kill()
        wait_gone(marker)
    (path,) = directory.spool_paths(home.spool_dir)
    assert not marked_sent(path)


def start_script_and_wait(script: str, environment: dict[str, str]) -> processes.Program:
    program = processes.start_script(script, environment)
    read_until(program, "ready")
    return program


def marked_sent(path: Path) -> set[str]:
    spool = Spool(path)
    try:
        return {segment.uri or "" for segment in spool.segments(SegmentState.SENT)}
    finally:
        spool.close()
