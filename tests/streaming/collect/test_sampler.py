"""Rows of samples: the columns are resource-tracker's, and what counts up is true as a sum."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resource_tracker import ProcessTracker, SystemTracker

from streaming.collect.sampler import Sampler, Use, used_by_us


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def values(row: bytes | None, header: bytes) -> dict[str, Any]:
    assert row is not None
    (names, numbers) = csv.reader([header.decode(), row.decode()])
    return {name: float(number) if number else None for name, number in zip(names, numbers, strict=True)}


def test_columns_and_kinds_of_values_are_resource_trackers(child: "subprocess.Popen[bytes]") -> None:
    theirs = {"timestamp": 0.0}
    for prefix, tracker in (
        ("system", SystemTracker(autostart=False)),
        ("process", ProcessTracker(pid=child.pid, autostart=False)),
    ):
        theirs |= {f"{prefix}_{name}": value for name, value in tracker.diff_stats().items() if name != "timestamp"}
    sampler = Sampler(child.pid)
    sampler.sample()
    assert list(sampler.latest) == list(theirs)
    assert len(theirs) == 32
    assert sampler.header.decode().strip() == ",".join(f'"{name}"' for name in theirs)


def test_first_row_counts_from_where_it_is_told_to(child: "subprocess.Popen[bytes]") -> None:
    time.sleep(0.1)  # the interpreter starts
    began = Sampler(child.pid, since=Use(time.time() - 1.0))
    found = values(began.sample(), began.header)
    stat = Path(f"/proc/{child.pid}/stat").read_text().split()
    assert found["process_utime"] + found["process_stime"] == pytest.approx((int(stat[13]) + int(stat[14])) / 100)


def test_last_row_makes_the_sums_true_and_shows_the_peak(child: "subprocess.Popen[bytes]") -> None:
    sampler = Sampler(child.pid, since=Use(time.time()))
    rows = [values(sampler.sample(), sampler.header) for _ in range(2)]
    rows.append(values(sampler.last(Use(time.time(), 5.0, 2.0, 4096, 8192, peak_mib=321.5)), sampler.header))
    assert sum(row["process_utime"] for row in rows) == pytest.approx(5.0)
    assert sum(row["process_stime"] for row in rows) == pytest.approx(2.0)
    assert sum(row["process_disk_read_bytes"] for row in rows) == 4096
    assert sum(row["process_disk_write_bytes"] for row in rows) == 8192
    assert max(row["process_memory_mib"] for row in rows) == 321.5
    assert all(row["process_cpu_usage"] <= (os.cpu_count() or 1) for row in rows)
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)


def test_last_row_takes_nothing_back(child: "subprocess.Popen[bytes]") -> None:
    """A child that nobody waited for is in the samples, and not in the kernel's sum."""
    sampler = Sampler(child.pid, since=Use(time.time()))
    sampler.sample()
    found = values(sampler.last(Use(time.time() - 60)), sampler.header)
    assert (found["process_utime"], found["process_stime"]) == (0, 0)
    assert found["process_memory_mib"] > 0


def test_clock_that_stands_still_or_goes_back_is_no_error(
    child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(child.pid)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert sampler.sample()
    assert sampler.sample()


def test_use_of_this_process_grows_with_its_work_and_its_children() -> None:
    began = used_by_us()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    sum(range(3_000_000))
    used = used_by_us().since(began)
    assert used.utime > 0.05
    assert used.at > 0
