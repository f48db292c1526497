"""What people see in a terminal of 80 columns, and that pipes and plain terminals get plain text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streaming.cli.terminal.screen import Screen
from streaming.read.status import summarize
from tests.streaming.cli.conftest import AsProgram
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.processes import Home, eventually
from tests.support.runs import dead_run, ended_run, live_run
from tests.support.terminal import CTRL_C, Terminal

BUSY = ("sh", "-c", "echo ready; while :; do :; done")


def start(
    program: AsProgram, *arguments: str, columns: int = 80, term: str = "xterm-256color", **settings: str
) -> Terminal:
    return Terminal.start(program.line(*arguments), {**program.environment, **settings}, columns=columns, term=term)


def fits(screen: list[str], columns: int = 80) -> bool:
    return all(len(line) <= columns for line in screen)


def test_run_shows_a_line_at_the_start_and_a_summary_at_the_end(program: AsProgram, far_end: FarEnd) -> None:
    with start(program, "run", "-i", "0.1", "--", "sleep", "2.5", **far_end.environment()) as terminal:
        assert terminal.wait() == 0
        shown = [line for line in terminal.screen() if line]
    lines = [line for line in shown if "waiting for the delivery" not in line]  # on a busy machine
    assert lines[0].startswith("tracker-stream: recording sleep as run ")
    assert re.search(r"exit 0 after [\d.]+ s; \d+ rows?, \d+ sent, 0 waiting", lines[1])
    assert fits(lines)


def test_ctrl_c_in_run_reaches_the_command_once_and_its_code_is_kept(home: Home, program: AsProgram) -> None:
    script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    with start(program, "run", "--", "sh", "-c", script) as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        assert terminal.wait() == 7
        assert terminal.written.count("interrupted") == 1
        assert "exit 7 after" in terminal.written
        assert "Traceback" not in terminal.written


COUNTING = """
import select, signal, sys, time
count = 0
def note(*_):
    global count
    count += 1
    print("interrupted", flush=True)
signal.signal(signal.SIGINT, note)
print("ready", flush=True)
while not count:
    time.sleep(0.01)
until = time.monotonic() + 0.5
while time.monotonic() < until:
    time.sleep(0.01)
sys.exit(count)
"""


def test_ctrl_c_in_run_reaches_the_command_once_and_not_twice(program: AsProgram) -> None:
    """The terminal has sent it to the whole group; we must not forward it as well."""
    with start(program, "run", "-q", "--", sys.executable, "-c", COUNTING) as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        assert terminal.wait() == 1


def test_ctrl_c_in_run_ends_a_command_that_does_not_care(program: AsProgram) -> None:
    with start(program, "run", "--", *BUSY) as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130


def test_second_ctrl_c_ends_the_wait_for_a_delivery(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    far_end.down()
    with start(program, "run", "--exit-wait", "300", "--", *BUSY, **far_end.environment()) as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        eventually(lambda: [path for path in home.spool_dir.glob("*.spool") if has_ended(path)])
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "to deliver: tracker-stream drain" in terminal.written


def has_ended(path: Path) -> bool:
    run = summarize(path).run
    return run is not None and run.ended_at is not None


def test_status_watch_redraws_in_place_and_ends_with_ctrl_c(home: Home, program: AsProgram) -> None:
    live_run(home.spool_dir, job_name="train")
    with start(program, "status", "--watch") as terminal:
        terminal.wait_for("1 recording")
        ended_run(home.spool_dir, job_name="other")
        terminal.wait_for("1 waiting")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        screen = terminal.screen()
        assert "Traceback" not in terminal.written
    assert sum(line.startswith("RUN ") for line in screen) == 1  # one table, redrawn
    assert any("train" in line and "recording" in line for line in screen)
    assert fits(screen)


def test_status_fits_80_columns_whatever_the_names(home: Home, program: AsProgram) -> None:
    for name in ("x" * 200, "名前" * 40, "short"):
        ended_run(home.spool_dir, row_count=12_345, job_name=name)
    with start(program, "status") as terminal:
        assert terminal.wait() == 0
        screen = terminal.screen()
    assert fits([line for line in screen if "名" not in line])
    assert any("…" in line for line in screen)


def test_drain_shows_progress_rate_and_eta_in_place(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    first, second = ended_run(home.spool_dir, row_count=500, job_name="first"), dead_run(home.spool_dir, row_count=9000)
    held = faults.held()
    far_end.fail_next("register", held)
    with start(program, "drain", "-j", "2", NO_COLOR="1", **far_end.environment()) as terminal:
        terminal.wait_for("rows/s, ETA")  # the other one got through
        assert "%" in terminal.written
        assert held.gate is not None
        held.gate.release()
        assert terminal.wait() == 0
        screen = terminal.screen()
    assert any("9,500 of 9,500 rows, 2 of 2 runs" in line for line in screen)
    for path in (first, second):
        assert any(line.startswith(path.stem) and line.endswith("delivered") for line in screen)
    assert sum("of 9,500 rows" in line for line in screen) == 1  # redrawn, not repeated


def test_ctrl_c_in_drain(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    path = ended_run(home.spool_dir, row_count=9)
    far_end.down()
    with start(program, "drain", **far_end.environment()) as terminal:
        terminal.wait_for("trying again")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "the rest waits" in terminal.written
        assert "Traceback" not in terminal.written
    assert summarize(path).counts.waiting == 9


@pytest.mark.parametrize(
    ("settings", "term", "has_colour"),
    [
        ({}, "xterm-256color", True),
        ({"NO_COLOR": "1"}, "xterm-256color", False),
        ({}, "dumb", False),
        ({"FORCE_COLOR": "1"}, "dumb", True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, "xterm", False),
    ],
)
def test_colour_is_the_users_choice(
    home: Home, program: AsProgram, settings: dict[str, str], term: str, has_colour: bool
) -> None:
    ended_run(home.spool_dir)
    with start(program, "status", term=term, **settings) as terminal:
        assert terminal.wait() == 0
        assert ("\x1b[" in terminal.written) == has_colour
        assert "waiting" in terminal.written  # words, not only colour


def test_watch_and_drain_on_a_dumb_terminal_are_plain_lines(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    ended_run(home.spool_dir)
    with start(program, "status", "--watch", term="dumb") as terminal:
        terminal.wait_for("1 run: 1 waiting.")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "\x1b" not in terminal.written
    with start(program, "drain", term="dumb", **far_end.environment()) as terminal:
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.written


def test_terminal_without_unicode_gets_ascii(home: Home, program: AsProgram) -> None:
    ended_run(home.spool_dir, job_name="Bär" * 30)
    for settings in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}):
        with start(program, "status", **settings) as terminal:
            assert terminal.wait() == 0
            assert "..." in terminal.written or "\\" in terminal.written
            assert "…" not in terminal.written
    with start(program, "run", "-i", "0.1", "--", "sleep", "2", LC_ALL="C") as terminal:
        assert terminal.wait() == 0
        assert terminal.written.isascii()


def test_piped_output_has_no_control_character(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    ended_run(home.spool_dir, row_count=9, job_name="\x1b[31mred\x07")
    settings = {**far_end.environment(), "TERM": "xterm-256color"}
    for arguments in (
        ["status"],
        ["drain", "--dry-run"],
        ["run", "-q", "--", "true"],
        ["drain"],
        ["doctor"],
        ["--help"],
    ):
        result = program(*arguments, **settings)
        text = (result.stdout + result.stderr).decode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text), arguments


def test_rich_is_loaded_only_for_a_terminal(home: Home, program: AsProgram) -> None:
    ended_run(home.spool_dir)
    script = (
        "import sys\nfrom streaming.cli import main\n"
        "try:\n    main(['status'], prog_name='tracker-stream')\n"
        "finally:\n    print('rich' in sys.modules, file=sys.stderr)"
    )
    piped = subprocess.run(
        [sys.executable, "-c", script], env=program.environment, capture_output=True, check=True, timeout=60
    )
    assert piped.stderr.split() == [b"False"]
    with Terminal.start([sys.executable, "-c", script], program.environment) as terminal:
        terminal.wait()
        assert "True" in terminal.written


def test_reader_that_leaves_early_is_no_trouble(home: Home, program: AsProgram) -> None:
    path = ended_run(home.spool_dir, row_count=50_000)
    line = f"{' '.join(map(str, program.line('export', path.stem)))} | head -n 1"
    result = subprocess.run(["bash", "-c", line], env=program.environment, capture_output=True, timeout=60, check=False)
    assert result.stdout.startswith(b'"timestamp"')
    assert b"Traceback" not in result.stderr


def test_screen_of_a_file_has_no_width_and_no_colour(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="utf-8") as file:
        screen = Screen(file, {"TERM": "xterm", "LANG": "C.UTF-8"})
        assert (screen.width, screen.has_colour, screen.can_redraw, screen.has_unicode) == (None, False, False, True)
