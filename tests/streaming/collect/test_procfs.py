"""The system's numbers from procfs: the same as resource-tracker's own, and from files that are opened once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resource_tracker import tracker_procfs
from resource_tracker.helpers import get_tracker_implementation

from streaming.collect import procfs
from streaming.collect.procfs import SystemStats
from tests.support.processes import ROOT, eventually

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs procfs")


def flat(stats: dict[str, Any]) -> dict[str, float]:
    """Every number under one name."""
    numbers: dict[str, float] = {}
    for name, content in stats.items():
        if isinstance(content, dict):
            numbers |= {f"{name}/{inner}": number for inner, number in flat(content).items()}
        else:
            numbers[name] = content
    return numbers


def theirs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    monkeypatch.setattr(tracker_procfs, "start_nvidia_smi", lambda: None)
    measure: Callable[[], dict[str, Any]] = tracker_procfs.get_system_stats
    return measure


def test_numbers_are_resource_trackers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, their = SystemStats(), theirs(monkeypatch)

    def every_number_lies_between() -> bool:
        """What moves between two calls of theirs, moves so in ours."""
        before, mine, after = flat(their()), flat(ours()), flat(their())
        assert list(mine) == list(before)
        return all(
            min(before[name], after[name]) <= number <= max(before[name], after[name]) for name, number in mine.items()
        )

    eventually(every_number_lies_between, 30.0, "no three measurements in a row agreed")


def test_kinds_of_numbers_are_the_same_so_that_rows_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, their = flat(SystemStats()()), flat(theirs(monkeypatch)())
    assert {name: type(number) for name, number in mine.items()} == {
        name: type(number) for name, number in their.items()
    }


def test_each_call_reads_anew_without_opening() -> None:
    ours = SystemStats()
    before = ours()
    descriptors = set(os.listdir("/proc/self/fd"))
    sum(number * number for number in range(3_000_000))
    after = ours()
    assert after["timestamp"] > before["timestamp"]
    assert after["utime"] + after["stime"] > before["utime"] + before["stime"]
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def test_with_a_gpu_resource_trackers_own_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert procfs.measures() == get_tracker_implementation()  # psutil's where that is installed


def test_numbers_of_a_tree_are_resource_trackers_own() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as tree:

        def agree() -> bool:
            mine, their = procfs.process_stats(tree.pid), tracker_procfs.get_process_stats(tree.pid)
            moving = ("timestamp", "utime", "stime")
            same = {name: number for name, number in mine.items() if name not in moving}
            assert list(mine) == [name for name in their if name != "gpu_utilized_indexes"]
            return mine["children"] == 1 and same == {name: their[name] for name in same}

        eventually(agree, 30.0, "no two measurements of the tree agreed")
        assert tree.stdin is not None
        tree.stdin.close()


def test_children_of_every_thread_are_of_the_tree() -> None:
    script = (
        "import subprocess, sys, threading\n"
        "threading.Thread(target=lambda: subprocess.run([sys.executable, '-c', 'import sys; sys.stdin.read()'])).start()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as tree:
        eventually(lambda: procfs.process_stats(tree.pid)["children"] == 1, 30.0, "the child was not seen")
        assert tree.stdin is not None
        tree.stdin.close()


def test_process_that_may_not_be_looked_into_shows_its_resident_size(monkeypatch: pytest.MonkeyPatch) -> None:
    read = procfs._read

    def as_a_stranger(path: str) -> bytes:
        if path.endswith(("smaps_rollup", "/io")):
            raise PermissionError(13, "of another user's process")
        return read(path)

    monkeypatch.setattr(procfs, "_read", as_a_stranger)
    assert procfs.memory_kib_of(os.getpid()) > 1000
    assert procfs.io_bytes(os.getpid()) == (0, 0)


def test_process_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert procfs.process_stats(gone.pid)["memory_mib"] == 0


def test_without_their_package_a_tree_is_sampled_on_linux() -> None:
    script = "import os, sys\nfrom streaming.collect.sampler import Sampler\nassert Sampler(os.getpid()).sample()\n"
    script += "print('resource_tracker' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
