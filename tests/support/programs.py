"""Small user programs for the process faults. Each says on stdout how far it got, so that a test can act just then."""

from contextlib import closing
from pathlib import Path

from spool import Spool, queries
from tests.support.far_end import FarEnd
from tests.support.oracle import Told, split_rows
from tests.support.processes import Home, Process, Program, clean_environment, marked

HEADER = b"timestamp,x\n"

PREAMBLE = """
import os, sys, time
import streaming

def new_manager(**options):
    chosen = dict(upload_interval=1, spool_interval=0.1, stop_timeout=30, host_info={}, cloud_info={})
    return streaming.StreamingManager(os.environ["SENTINEL_API_TOKEN"], **{**chosen, **options})

def say(*words):
    print(*words, flush=True)

def row(number):
    return b"%d,row %d\\n" % (number, number)

def append(manager, first, last):
    for number in range(first, last):
        manager.append(b"timestamp,x\\n" + row(number))
        say("appended", number)
"""

APPENDING = (
    PREAMBLE
    + """
manager = new_manager()
manager.start()
append(manager, 0, 10)
say("ready")
sys.stdin.readline()
append(manager, 10, 12)
manager.stop()
"""
)

WRITING = (
    PREAMBLE
    + """
path = os.path.join(os.environ["HOME"], "rows.csv")
manager = new_manager(csv_path=path, spool_interval=float(sys.argv[1]))
with open(path, "wb") as file:
    file.write(b"timestamp,x\\n" + b"".join(map(row, range(5))))
    file.flush()
    manager.start()
    manager.wait_until_registered(20)
    file.write(b"".join(map(row, range(5, 10))) + b"10,half a l")
    file.flush()
    say("ready")
    sys.stdin.readline()
"""
)


def rows(first: int, last: int) -> list[bytes]:
    return [b"%d,row %d\n" % (number, number) for number in range(first, last)]


def told(count: int, maybe: int = 0) -> Told:
    """So many rows were acknowledged, and perhaps so many more."""
    return Told(HEADER, rows(0, count), rows(count, count + maybe))


def recorded(path: Path) -> Told:
    """What a spool holds, for runs whose rows are samples that nobody knows beforehand."""
    with closing(Spool(path)) as spool:
        lines = [(header, row) for header, rows in queries.exported(spool.connection) for row in split_rows(rows)]
    return Told(lines[0][0] if lines else b"", lines)


def surroundings(home: Home, marker: str, far_end: FarEnd, **more: str) -> dict[str, str]:
    """The environment of a user's program that streams to this far end."""
    return clean_environment(home, marker, **far_end.environment(), **more)


def read_until(program: Program, word: str) -> list[str]:
    """Lines of a program's stdout up to the one that begins with `word`."""
    lines: list[str] = []
    while not lines or not lines[-1].startswith(word):
        line = program.read_line()
        if not line:
            raise AssertionError(f"the program ended before it said {word!r}; it said {lines}")
        lines.append(line)
    return lines


def uploaders(marker: str) -> list[Process]:
    """The uploader processes of this test."""
    return [process for process in marked(marker) if " uploader " in process.command]


def log_of(spool_dir: Path) -> str:
    """What our own processes wrote down."""
    return "".join(path.read_text(errors="replace") for path in sorted(spool_dir.glob("*.log")))
