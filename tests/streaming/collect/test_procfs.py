"""The system's numbers from procfs: the same as resource-tracker's own, and from files that are opened once."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from resource_tracker import tracker_procfs

from streaming.collect import procfs
from streaming.collect.procfs import SystemStats
from tests.support.processes import eventually

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


def test_with_a_gpu_resource_trackers_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert procfs.system_stats() is tracker_procfs.get_system_stats
