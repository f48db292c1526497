"""Faults 8, 9 and 10: a full disk, a quota, a file size limit. The program goes on, and all recovers by itself."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import oracle, small_disk
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, Program, clean_environment, eventually, start_program, wait_gone

HEADER = b"timestamp,x\n"
WIDE = b"x" * 1000

MANAGER = """
import logging, sys, streaming
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
token, csv_path = sys.argv[1:3]
manager = streaming.StreamingManager(token, csv_path, upload_interval=1, spool_interval=0.05, stop_timeout=60,
                                     host_info={}, cloud_info={})
manager.start()
print("started", flush=True)
sys.stdin.readline()
print(bool(manager.stop(exit_code=0)), flush=True)
"""


def rows(first: int, count: int) -> bytes:
    return b"".join(b"%d,%s\n" % (number, WIDE) for number in range(first, first + count))


@pytest.fixture
def environment(far_end: FarEnd, home: Home, marker: str) -> Iterator[dict[str, str]]:
    yield clean_environment(home, marker, **far_end.environment())
    wait_gone(marker)


def start_in_small_disk(
    script: str, environment: dict[str, str], home: Home, *arguments: str, size: str = "3m"
) -> Program:
    path = home.path / "script.py"
    path.write_text(script)
    command = small_disk.command([sys.executable, path, *arguments], home.spool_dir, size=size)
    return start_program(command, environment, stdin=True)


def test_fault_08_disk_fills_while_offline_and_every_row_arrives_when_the_network_is_back(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    small_disk.require_mounts()
    csv_path = home.path / "rows.csv"
    all_rows = [rows(index * 1000, 1000) for index in range(6)]
    csv_path.write_bytes(HEADER + all_rows[0])
    far_end.down()
    with start_in_small_disk(MANAGER, environment, home, far_end.token, str(csv_path)) as program:
        assert program.read_line() == "started"
        disk = small_disk.seen_from_outside(program.pid, home.spool_dir)
        with csv_path.open("ab") as csv:
            csv.writelines(all_rows[1:])
        eventually(lambda: spool_bytes(disk) > 1 << 20)
        small_disk.fill(disk)
        far_end.up()
        far_end.journal.wait_for_count("put", 2, 60)
        program.say("stop")
        result = program.wait(90).check_unfelt()
    assert result.stdout == b"True\n"
    assert result.stderr.count(b"no room left") == 1, "told once"
    oracle.judge(far_end.evidence(), Told(HEADER, all_rows), run_status="finished", exit_code=0)


def spool_bytes(disk: Path) -> int:
    return sum(path.stat().st_size for path in disk.glob("*.spool"))


def test_fault_08_tracked_command_does_not_feel_a_full_disk_and_no_sample_is_lost(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    small_disk.require_mounts()
    tracked = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(7)"]
    words = [sys.executable, "-m", "streaming", "run", "--interval", "0.1", "--upload-interval", "1", "--", *tracked]
    said = home.path / "stderr"
    command = small_disk.command(["sh", "-c", 'exec "$@" 2>"$0"', said, *words], home.spool_dir, size="1m")
    with start_program(command, environment, stdin=True) as program:
        disk = small_disk.seen_from_outside(program.pid, home.spool_dir)
        far_end.journal.wait_for_count("put", 1, 30)
        far_end.down()
        filler = small_disk.fill(disk)
        full_at = spool_bytes(disk)
        eventually(lambda: b"no room left" in said.read_bytes())
        assert spool_bytes(disk) <= full_at + 4096
        filler.unlink()
        far_end.up()
        program.say("end")
        result = program.wait(60)
    assert result.exit_code == 7
    told = far_end.evidence()
    found = re.findall(rb"(\d+) rows, (\d+) sent, 0 waiting", said.read_bytes())
    assert found, said.read_text()
    recorded = int(found[-1][0])
    assert len(oracle.delivered(told)) == recorded
    oracle.live(told, run_status="failed", exit_code=7)


DELIVERY = """
import sys, time
from pathlib import Path
from spool import RunState, Spool, SegmentState
from spool.errors import SpoolFull
from streaming.upload import delivery
from tests.support import oracle, plays, small_disk
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told

count = 150
spool = Spool.create(Path(sys.argv[1]), plays.new_run())
spool.append([plays.batch_of(number, width=300) for number in range(count)])
small_disk.fill(Path(sys.argv[1]))
try:
    while count < 200:
        spool.append([plays.batch_of(count, width=300)])
        count += 1
    sys.exit("the disk is not full")
except SpoolFull as full:
    assert "no room left" in str(full), full
spool.end(exit_code=0, run_status="finished", ended_at=time.time())
class Talkative(MemoryFarEnd):
    def finish(self, run_id, payload):
        return {**super().finish(run_id, payload), "statistics": "z" * 20000}


far_end = Talkative()
told = [(plays.header_of(number), plays.rows_of(number, width=300)) for number in range(count)]
assert delivery.deliver(spool, far_end, far_end) is delivery.Progress.COMPLETE
assert spool.run().state is RunState.FINISHED
assert len(spool.segments(SegmentState.SENT)) == -(-count // 3)
oracle.judge(far_end.evidence(), Told(plays.HEADERS[0], told), run_status="finished", exit_code=0)
print("delivered")
"""


def test_fault_09_run_is_delivered_and_finished_on_a_disk_that_was_full_before_its_first_segment(
    home: Home, marker: str
) -> None:
    small_disk.require_mounts()
    with start_in_small_disk(
        DELIVERY, clean_environment(home, marker), home, str(home.spool_dir), size="2m"
    ) as program:
        result = program.wait(60)
    assert (result.exit_code, result.stdout) == (0, b"delivered\n"), result.stderr.decode()


KILLED_EVERYWHERE = """
import os, pickle, sys
from contextlib import closing
from pathlib import Path
from spool import RunState, Spool, SegmentState, directory
from streaming.upload import delivery
from tests.support import oracle, plays, small_disk
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told

disk, kept = Path(sys.argv[1]), Path(sys.argv[2])
told = [(plays.header_of(number), plays.rows_of(number)) for number in range(6)]


def live(path, far_end, die_at):
    # the run's end and its delivery, killed at the step of that number
    steps = iter(range(1000))

    def step(name):
        if next(steps) == die_at:
            kept.write_bytes(pickle.dumps(far_end))
            os._exit(9)

    with closing(Spool(path, step=step)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        delivery.deliver(spool, far_end, far_end)
    os._exit(0)


for die_at in range(1000):
    with closing(Spool.create(disk, plays.new_run())) as spool:
        spool.append([plays.batch_of(number) for number in range(6)])
        path = spool.path
    fillers = [small_disk.fill(disk)]
    pid = os.fork()
    if pid == 0:
        live(path, MemoryFarEnd(), die_at)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        break
    assert code == 9, code
    fillers.append(small_disk.fill(disk, name="more"))
    far_end = pickle.loads(kept.read_bytes())
    with closing(Spool(path)) as spool:
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        assert delivery.deliver(spool, far_end, far_end) is delivery.Progress.COMPLETE, die_at
        assert spool.run().state is RunState.FINISHED
        assert len(spool.segments(SegmentState.SENT)) == 2
    oracle.judge(far_end.evidence(), Told(plays.HEADERS[0], told), run_status="finished", exit_code=0)
    for filler in fillers:
        filler.unlink()
    directory.remove(path)
print("killed", die_at)
"""


def test_fault_09_short_run_is_delivered_on_a_full_disk_whatever_step_of_its_end_and_delivery_was_the_last(
    home: Home, marker: str
) -> None:
    small_disk.require_mounts()
    with start_in_small_disk(
        KILLED_EVERYWHERE, clean_environment(home, marker), home, str(home.spool_dir), str(home.path / "far"), size="1m"
    ) as program:
        result = program.wait(60)
    assert result.exit_code == 0, result.stderr.decode()
    assert int(result.stdout.split()[1]) >= 20, "every step of end, register, seal, mark and finish"


LIMITED = MANAGER.replace(
    "import logging", "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))\nimport logging"
)


def test_fault_10_file_size_limit_stops_neither_the_program_nor_the_delivery(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    csv_path = home.path / "rows.csv"
    all_rows = [rows(index * 1000, 1000) for index in range(6)]
    csv_path.write_bytes(HEADER + b"".join(all_rows))
    path = home.path / "script.py"
    path.write_text(LIMITED)
    words = [sys.executable, path, far_end.token, str(csv_path)]
    with start_program(words, environment, stdin=True) as program:
        assert program.read_line() == "started"
        far_end.journal.wait_for_count("put", 3, 60)
        program.say("stop")
        result = program.wait(90).check_unfelt()
    assert result.stdout == b"True\n"
    assert b"file size limit" in result.stderr
    oracle.judge(far_end.evidence(), Told(HEADER, all_rows), run_status="finished", exit_code=0)
