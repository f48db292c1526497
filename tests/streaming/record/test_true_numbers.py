"""What is recorded of a command is what the kernel says of it: the same as GNU time, also for short ones."""

import csv
import io
import sys
from contextlib import closing

import pytest

from spool import Spool, directory, queries
from tests.support.processes import Home, clean_environment, start_program, wait_gone

PREAMBLE = """
import resource, subprocess, sys, time
def cpu_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
def peak_mib():  # not ru_maxrss: that begins with the size of whoever started us
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
def work(block_mib, seconds, child_count):
    block = bytearray(block_mib << 20)
    until = time.process_time() + seconds
    while time.process_time() < until: pass
    for _ in range(child_count):
        subprocess.run([sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.1: pass"], check=True)
"""
RUN = "work(%s)\nprint(cpu_s(), peak_mib())"
TRACK = """
import streaming
with streaming.track(host_info={}, cloud_info={}):
    before = cpu_s()
    work(%s)
    print(cpu_s() - before, peak_mib())
"""
PROGRAMS = {
    "0.3 s and 200 MiB": "200, 0.3, 0",
    "0.8 s and 60 MiB": "60, 0.8, 0",
    "20 children": "30, 0, 20",
    "small": "0, 0.02, 0",
}
SINGLE_PROCESSES = {"run": PROGRAMS.keys() - {"20 children"}, "track": {"0.3 s and 200 MiB", "0.8 s and 60 MiB"}}


def rows(home: Home) -> list[dict[str, str]]:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        text = "".join((header + rows).decode() for header, rows in queries.exported(spool.connection))
    return [row for row in csv.DictReader(io.StringIO(text)) if row["timestamp"] != "timestamp"]


def column(found: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in found]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("way", ["run", "track"])
def test_cpu_and_peak_memory_are_the_kernels(home: Home, marker: str, name: str, way: str) -> None:
    script = PREAMBLE + (RUN if way == "run" else TRACK) % PROGRAMS[name]
    command = [sys.executable, "-m", "streaming", "run", "-q", "--"] if way == "run" else []
    with start_program([*command, sys.executable, "-c", script], clean_environment(home, marker)) as program:
        result = program.wait(60)
    assert result.exit_code == 0, result.stderr
    cpu_s, peak_mib = map(float, result.stdout.split())
    found = rows(home)
    recorded_s = sum(column(found, "process_utime")) + sum(column(found, "process_stime"))
    assert recorded_s == pytest.approx(
        cpu_s, rel=0.03, abs=0.08
    )  # abs: the interpreter's end, after the program's word
    if name in SINGLE_PROCESSES[way]:
        assert max(column(found, "process_memory_mib")) == pytest.approx(peak_mib, rel=0.05)
    assert column(found, "timestamp") == sorted(column(found, "timestamp"))
    wait_gone(marker)


def test_command_of_half_a_second_has_a_shape(home: Home, marker: str) -> None:
    words = [sys.executable, "-m", "streaming", "run", "-q", "--", "sleep", "0.6"]
    with start_program(words, clean_environment(home, marker)) as program:
        assert program.wait(60).exit_code == 0
    found = rows(home)
    assert len(found) >= 3
    assert all(int(row["process_pid"]) == int(found[0]["process_pid"]) for row in found)
    wait_gone(marker)
