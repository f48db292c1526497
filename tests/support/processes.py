"""Fresh interpreters for tests: started clean, found again wherever they hide, killed by id, waited for."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.support import oracle

MARKER_NAME = "TRACKER_STREAM_TEST_ID"
SCRUBBED = ("AWS_", "SENTINEL_", "TRACKER_", "XDG_", "PYTHON", "PYTEST", "COV_")
SCRUBBED_NAMES = {
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
}
ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.02
T = TypeVar("T")


# -- where a program lives ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """Directories of a user's own below a test's temporary directory."""

    path: Path
    spool_dir: Path
    tmp_dir: Path

    @classmethod
    def below(cls, directory: Path) -> "Home":
        home = cls(directory / "home", directory / "home" / "spool", directory / "tmp")
        for path in (home.path, home.tmp_dir):
            path.mkdir(parents=True, exist_ok=True)
        return home

    def settings(self) -> dict[str, str]:
        return {
            "HOME": str(self.path),
            "TMPDIR": str(self.tmp_dir),
            "TRACKER_STREAM_DIR": str(self.spool_dir),
            "TRACKER_DISCOVER_CLOUD": "0",
        }


def new_marker() -> str:
    return uuid.uuid4().hex


def is_scrubbed(name: str) -> bool:
    return name.startswith(SCRUBBED) or name.upper() in SCRUBBED_NAMES


def clean_environment(home: Home, marker: str, **more: str) -> dict[str, str]:
    """The surroundings' environment without anything that could reach into the product, and with the marker."""
    kept = {name: text for name, text in os.environ.items() if not is_scrubbed(name)}
    return {**kept, **home.settings(), MARKER_NAME: marker, "PYTHONPATH": str(ROOT), **more}


# -- programs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended; `check_unfelt` compares it with how it would have ended without us."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    duration_s: float

    def check_unfelt(
        self, *, exit_code: int = 0, at_most_s: float | None = None, traceback_count: int = 0
    ) -> "ProgramResult":
        oracle.unfelt(
            exit_code=self.exit_code,
            stderr=self.stderr,
            duration_s=self.duration_s,
            expected_exit_code=exit_code,
            at_most_s=at_most_s,
            traceback_count=traceback_count,
        )
        return self


@dataclass
class Program:
    """A running program. Use as a context manager: what still runs at the end is killed, the pipes are closed."""

    popen: "subprocess.Popen[bytes]"
    started_at_s: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait(self, deadline_s: float = 60.0) -> ProgramResult:
        """Its result; killed, with an error, when it does not end in time."""
        try:
            stdout, stderr = self.popen.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            stdout, stderr = self._rest()
            said = f"{stdout[-1000:]!r} {stderr[-2000:]!r}"
            raise AssertionError(f"pid {self.pid} did not end within {deadline_s} s; it said {said}") from None
        return ProgramResult(self.popen.returncode, stdout or b"", stderr or b"", time.monotonic() - self.started_at_s)

    def _rest(self) -> tuple[bytes, bytes]:
        """What a killed program said. Detached children may keep its pipes open: do not wait for those."""
        try:
            return self.popen.communicate(timeout=2)
        except subprocess.TimeoutExpired as late:
            return late.stdout or b"", late.stderr or b""

    def say(self, line: str) -> None:
        """Write a line to its stdin (needs `stdin=True`)."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def read_line(self) -> str:
        """Block for its next line on stdout: how a script tells that it got somewhere. Empty when it ended."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().decode().rstrip("\n")

    def send_signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(60)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


def start_program(
    command: Sequence[str | Path], environment: Mapping[str, str], *, cwd: Path | None = None, stdin: bool = False
) -> Program:
    """Start any command in a session of its own (so that a signal to its group spares us)."""
    source = subprocess.PIPE if stdin else subprocess.DEVNULL
    popen = subprocess.Popen(
        [str(word) for word in command],
        env=dict(environment),
        cwd=cwd or environment["HOME"],
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    return Program(popen)


def start_script(
    script: str | Path, environment: Mapping[str, str], *arguments: str, cwd: Path | None = None, stdin: bool = False
) -> Program:
    """Start a script file, or source text (written to a file in HOME first, as a user's would be)."""
    if isinstance(script, str):
        text, script = script, Path(environment["HOME"], f"script-{uuid.uuid4().hex[:8]}.py")
        script.write_text(text, encoding="utf-8")
    return start_program([sys.executable, script, *arguments], environment, cwd=cwd, stdin=stdin)


def run_script(
    script: str | Path, environment: Mapping[str, str], *arguments: str, deadline_s: float = 60.0
) -> ProgramResult:
    with start_script(script, environment, *arguments) as program:
        return program.wait(deadline_s)


# -- processes, wherever they are --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process by pid *and* start time: never mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int
    command: str

    @property
    def is_alive(self) -> bool:
        """Running, not a zombie."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.start_ticks and stat[0] not in "ZX"


SPARED: set[Process] = set()


def marked(marker: str) -> list[Process]:
    """Every process with the marker in its environment or its arguments, detached ones too; never ourselves."""
    needle = marker.encode()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())
    return [process for pid in pids if _has(pid, needle) and (process := find(pid))]


def _has(pid: int, needle: bytes) -> bool:
    return any(needle in _read(pid, name) for name in ("environ", "cmdline"))


def find(pid: int) -> Process | None:
    """The living process with this pid."""
    stat = _stat(pid)
    if stat is None or stat[0] in "ZX":
        return None
    command = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, int(stat[19]), command)


def descendants(of_pid: int) -> list[Process]:
    """The living children of a process, their children, and so on: those that have not been detached."""
    parents = {int(name): int(stat[1]) for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))}
    family = {of_pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [process for pid in sorted(family - {of_pid}) if (process := find(pid))]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (the state) on: the name before may contain anything."""
    text = _read(pid, "stat").decode(errors="replace")
    return text.rpartition(")")[2].split() or None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def kill(process: Process | int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to that very process; harmless when it has ended."""
    chosen = find(process) if isinstance(process, int) else process
    if chosen is not None and chosen.is_alive:
        try:
            os.kill(chosen.pid, number)
        except ProcessLookupError:
            return  # ended meanwhile


def kill_marked(marker: str, number: signal.Signals = signal.SIGKILL) -> list[Process]:
    """Send a signal to every process of the test; returns those. At once: none of them sees another one die of it."""
    processes = marked(marker)
    for each in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):
        for process in processes:
            kill(process, each)
    return processes


def spare(pid: int) -> None:
    """A process that outlives the test which started it: a session's own, started again. `SPARED` are left alone."""
    if found := find(pid):
        SPARED.add(found)


def wait_gone(marker: str, deadline_s: float = 60.0) -> None:
    """Wait until no process of the test is left."""
    eventually(lambda: not marked(marker), deadline_s, lambda: f"still there: {marked(marker)}")


def assert_none_left(marker: str) -> None:
    """No process of the test is left now. Kills what is, so that one failing test does not disturb the next."""
    left = kill_marked(marker)
    if left:
        raise AssertionError(f"processes left behind (killed now): {left}")


def eventually(
    predicate: Callable[[], T], deadline_s: float = 60.0, describe: str | Callable[[], str] = "condition not met"
) -> T:
    """Return what `predicate()` returns as soon as it is true; AssertionError with `describe` after the deadline."""
    until = time.monotonic() + deadline_s
    while not (met := predicate()):
        if time.monotonic() >= until:
            text = describe() if callable(describe) else describe
            raise AssertionError(f"after {deadline_s} s: {text}")
        time.sleep(POLL_S)
    return met
