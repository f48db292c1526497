"""The wrapped command: started untouched, signals forwarded, exit codes as a shell's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import Home, Program, clean_environment, start_program

RUN = """
import sys
from streaming.record.command import CannotStart, Command
if sys.argv[1] == "portably":
    import signal
    del signal.sigwaitinfo
try:
    running = Command(sys.argv[2:])
except CannotStart as error:
    print(error.reason, file=sys.stderr)
    sys.exit(error.exit_code)
sys.exit(running.wait().exit_code)
"""
WAYS = ["here", "portably"]


def wrapped(home: Home, marker: str, way: str, *words: str) -> Program:
    command = [sys.executable, "-c", RUN, way, *words]
    return start_program(command, clean_environment(home, marker), stdin=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_exit_code_is_what_a_shell_would_say(home: Home, marker: str, way: str, script: str, code: int) -> None:
    with wrapped(home, marker, way, "sh", "-c", script) as program:
        assert program.wait(30).exit_code == code


@pytest.mark.parametrize("way", WAYS)
def test_command_that_is_not_found_or_not_executable_is_told(home: Home, marker: str, way: str) -> None:
    plain = home.path / "plain"
    plain.write_text("")
    for word, code, said in (("no-such-command", 127, b"command not found"), (str(plain), 126, b"Permission denied")):
        with wrapped(home, marker, way, word) as program:
            result = program.wait(30)
        assert result.exit_code == code
        assert said in result.stderr
        assert word.encode() in result.stderr


@pytest.mark.parametrize("way", WAYS)
def test_input_and_output_are_the_callers_own(home: Home, marker: str, way: str) -> None:
    with wrapped(home, marker, way, "sh", "-c", "read line; echo got $line; echo aside >&2") as program:
        program.say("this")
        result = program.wait(30)
    assert (result.stdout, result.stderr) == (b"got this\n", b"aside\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signal_is_passed_on(home: Home, marker: str, name: str) -> None:
    script = f"import signal, sys; signal.signal(signal.{name}, lambda *_: sys.exit(9));"
    script += "print('ready', flush=True); signal.pause()"
    with wrapped(home, marker, "here", sys.executable, "-c", script) as program:
        assert program.read_line() == "ready"
        program.send_signal(getattr(signal, name))
        assert program.wait(30).exit_code == 9


def test_command_sees_the_signals_as_the_caller_had_them(home: Home, marker: str) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and we block what we wait for: none of it is the command's business."""
    show = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    directly = subprocess.run(show, capture_output=True, check=True).stdout
    with wrapped(home, marker, "here", *show) as program:
        result = program.wait(30)
    assert signals(result.stdout) == signals(directly)


def signals(status: bytes) -> list[int]:
    """The masks, without signals 32 and 33, which are the C library's own (its posix_spawn leaves them ignored)."""
    masks = [int(line.split()[1], 16) & ~(0b11 << 31) for line in status.splitlines()]
    assert len(masks) == 2
    return masks


def test_signal_of_the_terminal_reaches_the_command_once(home: Home, marker: str) -> None:
    import pty

    script = (
        "import signal, sys, time\ncount = []\nsignal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "print('ready', flush=True)\n"
        "until = time.monotonic() + 30\n"
        "while not count and time.monotonic() < until: time.sleep(0.01)\n"
        "time.sleep(0.3)\nprint('counted', len(count), flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-c", RUN, "here", sys.executable, "-c", script],
            clean_environment(home, marker),
        )
    said = b""
    try:
        while b"ready" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"counted" not in said or not said.endswith(b"\n"):
            said += os.read(terminal, 1000)
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    assert b"counted 1" in said


def test_the_wrapper_leaves_no_file_behind(home: Home, marker: str) -> None:
    with wrapped(home, marker, "here", "true") as program:
        program.wait(30)
    assert [path for path in Path(home.path).iterdir() if path != home.spool_dir] == []
