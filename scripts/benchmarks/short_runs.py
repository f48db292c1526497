"""Rows 16, 17: what recording adds to a command that ends at once, and how fast many such runs are delivered afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

from benchmarks import child, measure, spools
from benchmarks.rows import HEADER, Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import FarEnd, World
from spool import Batch, Spool
from tests.support import processes
from tests.support.listener import BlackHole

LATENCY_S = 0.05
PER_S_GOAL, MEMORY_GOAL_BYTES = 25.0, 120e6
TRUE_GOALS_S = {"token": 0.35, "no token": 0.25, "black hole": 2.0}
TRUE_NAMES = {
    "token": "`run -- true`: service up, engine there",
    "no token": "`run -- true`: without a token",
    "black hole": "`run -- true`: token, every address a black hole",
}
_PYTHON = [sys.executable]
_RUN = [sys.executable, "-m", "streaming", "run", "--quiet"]


def measure_short_runs(world: World) -> Measured:
    """In turn: a bare interpreter, one that imports click, and a recorded `true`; then a drain of many ended runs."""
    figures = [*_true_figures(world), *_drain_figures(world, world.pick(1000, 60))]
    notes = [
        "Row 16: from start to exit of the whole command, medians; the engine is kept there by another run. With a token it"
        " waits until the service has confirmed the run's end. The limit is a Python that does nothing, and imports click.",
        f"Row 17: runs of one row that have ended; every answer of the far end takes {LATENCY_S * 1e3:.0f} ms, two a run."
        " The time is that of the whole command, the start of the engine included.",
    ]
    return Measured(figures, notes)


# -- row 16 ------------------------------------------------------------------------------------------------------------


def _true_figures(world: World) -> Iterator[Figure]:
    with _engine_there(world) as served, BlackHole() as hole:
        nowhere = {**served, "SENTINEL_API_URL": hole.url, "SENTINEL_S3_ENDPOINT_URL": hole.url}
        settings = {"token": served, "no token": {}, "black hole": nowhere}
        alone = {name: {"TRACKER_STREAM_DIR": str(world.folder("true")), **each} for name, each in settings.items()}
        alone["token"] = served
        contestants: dict[str, Callable[[], float]] = {
            "pass": lambda: _seconds(world, [*_PYTHON, "-c", "pass"], {}),
            "click": lambda: _seconds(world, [*_PYTHON, "-c", "import click"], {}),
        }
        for name in TRUE_GOALS_S:
            contestants[name] = lambda name=name: _seconds(world, [*_RUN, "--", "true"], alone[name])
        taken = {name: median(each) for name, each in measure.interleaved(contestants, world.pick(15, 5)).items()}
    for number, (name, goal_s) in enumerate(TRUE_GOALS_S.items()):
        yield Figure(
            "" if number else "16",
            TRUE_NAMES[name],
            f"{taken[name]:.2f} s",
            f"bare Python: {taken['pass'] * 1e3:.0f} ms, with click: {taken['click'] * 1e3:.0f} ms",
            f"{taken[name] / taken['click']:.1f}",
            f"at most {goal_s} s",
            taken[name] <= goal_s,
            {"ours_s": taken[name], "pass_s": taken["pass"], "click_s": taken["click"]},
        )


@contextmanager
def _engine_there(world: World) -> Iterator[dict[str, str]]:
    """Settings of a service, and of a directory whose engine serves another run."""
    with world.far_end() as far_end, ExitStack() as stack:
        settings = {"TRACKER_STREAM_DIR": str(world.folder("engine")), **far_end.settings()}
        other = subprocess.Popen([*_RUN, "--", "sleep", "86400"], env=world.environment(**settings))
        stack.callback(other.wait)
        stack.callback(other.terminate)
        processes.eventually(lambda: far_end.remote.do("state")["runs"], 60.0)
        yield settings


def _seconds(world: World, command: list[str], settings: Mapping[str, str]) -> float:
    environment = world.environment(**settings)
    began_at = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    return time.monotonic() - began_at


# -- row 17 ------------------------------------------------------------------------------------------------------------


def _drain_figures(world: World, count: int) -> Iterator[Figure]:
    folder = world.folder("ended")
    with world.far_end() as far_end:
        for kind in ("register", "finish", "put"):
            far_end.remote.do("always", kind=kind, fault="delayed", **{"with": {"delay_s": LATENCY_S}})
        child.call(make_ended, world.environment(), folder=str(folder), count=count, address=far_end.address())
        began_at = time.monotonic()
        peak = _drain(world, folder, far_end)
        per_s = count / (time.monotonic() - began_at)
        delivered = sum(run["finish"] is not None for run in far_end.remote.do("state")["runs"])
    assert delivered == count, f"{delivered} of {count} runs were delivered"
    yield Figure(
        "17",
        f"drain of {count:,} small ended runs, {LATENCY_S * 1e3:.0f} ms a request",
        f"{per_s:.1f} runs/s",
        "",
        "",
        f"at least {PER_S_GOAL:.0f} runs/s",
        per_s >= PER_S_GOAL,
        {"per_s": per_s, "count": count},
    )
    yield Figure(
        "",
        "  peak resident memory of drain and engine",
        f"{peak / 1e6:.0f} MB",
        "",
        "",
        f"at most {MEMORY_GOAL_BYTES / 1e6:.0f} MB",
        peak <= MEMORY_GOAL_BYTES,
        {"peak_bytes": peak},
    )


def _drain(world: World, folder: Path, far_end: FarEnd) -> int:
    """The sum of the largest resident sets of all its processes, as far as they were seen."""
    marker = processes.new_marker()
    settings = {"TRACKER_STREAM_DIR": str(folder), processes.MARKER_NAME: marker, **far_end.settings()}
    command = [*_PYTHON, "-m", "streaming", "drain"]
    peaks: dict[int, int] = {}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=world.environment(**settings), stdout=quiet, stderr=quiet) as draining:
        while draining.poll() is None:
            for each in processes.marked(marker):
                peaks[each.pid] = max(peaks.get(each.pid, 0), _peak_bytes(each.pid))
            time.sleep(0.5)  # not to be felt by what is measured
    processes.wait_gone(marker)
    return sum(peaks.values())


def _peak_bytes(pid: int) -> int:
    try:
        return measure.peak_rss_bytes(pid)
    except (OSError, StopIteration):  # it has just ended
        return 0


# -- in the child ------------------------------------------------------------------------------------------------------


def make_ended(folder: str, count: int, address: dict[str, str]) -> None:
    """Runs of one row each, which have ended and were never delivered."""
    rows = Rows()
    token, api_url, s3_url = address["token"], address["api_url"], address["s3_endpoint_url"]
    for number in range(count):
        new = spools.new_run(token, api_url=api_url, s3_endpoint_url=s3_url)
        with closing(Spool.create(Path(folder), new)) as spool:
            spool.append([Batch(HEADER, rows.combined(number))])
            spool.end(exit_code=0, run_status="finished", ended_at=time.time())
    child.say("made")
