"""The user of an end-to-end test: writes scripts, runs them and the command, and knows what was recorded."""

import json
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from spool import Spool, directory, queries
from tests.support.oracle import Told
from tests.support.processes import (
    Home,
    Process,
    Program,
    ProgramResult,
    clean_environment,
    eventually,
    find,
    kill,
    marked,
    start_program,
    start_script,
    wait_gone,
)

HEADER = b'"timestamp","system_cpu","process_memory"\n'

# Every script begins with this: a CSV file that grows row by row, and a manager of the documented signature.
PRELUDE = """
import os, sys, time
from streaming import StreamingManager
HEADER = b'"timestamp","system_cpu","process_memory"\\n'
CSV = os.path.join(os.environ["HOME"], f"metrics-{os.getpid()}.csv")
TOKEN = os.environ["SENTINEL_API_TOKEN"]

def row(number):
    return b"%d,%d,%d\\n" % (1700000000 + number, number % 7, number * 3)

def write(first, count):
    with open(CSV, "ab") as file:
        file.write(b"".join(([HEADER] if first == 0 else []) + [row(n) for n in range(first, first + count)]))

def say(text):
    print(text, flush=True)

def wait_for(predicate, deadline_s=60):
    until = time.monotonic() + deadline_s
    while not predicate():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
"""


def row(number: int) -> bytes:
    """As the prelude's: the row that every script writes under this number."""
    return b"%d,%d,%d\n" % (1700000000 + number, number % 7, number * 3)


def told(count: int, *, maybe: int = 0) -> Told:
    """The rows 0 to count - 1 were recorded, and the `maybe` after those may have been."""
    rows = [row(number) for number in range(count + maybe)]
    return Told(HEADER, rows[:count], rows[count:])


@dataclass
class User:
    """A HOME, settings, and the programs that were started with them."""

    home: Home
    marker: str
    settings: dict[str, str]
    _programs: list[Program] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(self.home, self.marker, **{**self.settings, **more})

    def start(self, script: str, *, stdin: bool = False, **more: str) -> Program:
        """Start a script below the prelude."""
        return self._keep(start_script(PRELUDE + script, self.environment(**more), stdin=stdin))

    def run(self, script: str, **more: str) -> ProgramResult:
        return self.start(script, stdin=False, **more).wait()

    def start_command(self, *words: str | Path, stdin: bool = False, **more: str) -> Program:
        """Start `tracker-stream WORDS`."""
        return self.start_python("-m", "streaming", *words, stdin=stdin, **more)

    def command(self, *words: str | Path, **more: str) -> ProgramResult:
        return self.start_command(*words, stdin=False, **more).wait()

    def start_python(self, *words: str | Path, stdin: bool = False, **more: str) -> Program:
        return self._keep(start_program([sys.executable, *words], self.environment(**more), stdin=stdin))

    def _keep(self, program: Program) -> Program:
        self._programs.append(program)
        return program

    def leave(self) -> None:
        """End what still runs, and release the pipes."""
        for program in self._programs:
            program.__exit__()

    # -- what is there

    def spools(self) -> list[Path]:
        return directory.spool_paths(self.home.spool_dir)

    def spool(self) -> Path:
        """The only run."""
        (path,) = self.spools()
        return path

    def recorded(self, path: Path | None = None) -> Told:
        """What the spool of the (only) run holds, as batches in the order of their append."""
        with closing(Spool(path or self.spool())) as spool:
            batches = list(queries.exported(spool.connection))
        return Told(batches[0][0] if batches else b"", batches)

    def uploader(self) -> Process:
        """The uploader that works now."""
        found = eventually(self._uploader, 20.0, lambda: f"no uploader among {marked(self.marker)}")
        assert found is not None
        return found

    def kill_uploader(self) -> Process:
        """SIGKILL the uploader that works now; returns when it is gone."""
        found = self.uploader()
        kill(found)
        eventually(lambda: not found.is_alive)
        return found

    def _uploader(self) -> Process | None:
        """The lock file of a run says who delivers it."""
        texts = (path.read_text() for path in self.home.spool_dir.glob("*.lock"))
        return next((found for text in texts if text and (found := find(json.loads(text)["pid"]))), None)

    def wait_gone(self, deadline_s: float = 60.0) -> None:
        """Until none of the programs' processes is left, however they were started."""
        wait_gone(self.marker, deadline_s)
