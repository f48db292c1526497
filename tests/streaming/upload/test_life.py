"""Who is gone, as far as it can be seen from here: the kernel's word, silence, the scheduler's word, a person's word."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Spool, system
from streaming.upload import slurm
from streaming.upload.life import COPY_SILENCE_S, RECENT_S, look, tracker_is_gone
from tests.support.processes import Home
from tests.support.runs import dead_tracker, elsewhere, live_run, make_run

JOB = "hpc/4711/0"


def after(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


def is_gone(path: Path, after_s: float = 0.0, **said: bool) -> bool:
    with closing(Spool(path)) as spool:
        return tracker_is_gone(spool, clock=after(after_s), **said)


def run_on_n1(home: Home, *, heartbeat_s: float = 1.0, job: str = "") -> Path:
    """A run that another host records into this directory now."""
    tracker = elsewhere(dead_tracker(), heartbeat_s=heartbeat_s, slurm_job=job)
    return make_run(home.spool_dir, tracker=tracker)


# -- here --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_said", [False, True])
def test_living_tracker_here_is_never_gone(home: Home, is_said: bool) -> None:
    assert not is_gone(live_run(home.spool_dir), 10 * COPY_SILENCE_S, has_ended=is_said)


@pytest.mark.parametrize("change", [{}, {"boot_id": "earlier boot"}, {"started_at": "1"}])
def test_dead_tracker_here_is_gone_at_once(home: Home, change: dict[str, str]) -> None:
    tracker = replace(system.identify(os.getpid()), **change) if change else dead_tracker()
    assert is_gone(make_run(home.spool_dir, tracker=tracker))


def test_tracker_in_another_container_is_elsewhere(home: Home) -> None:
    tracker = replace(dead_tracker(), pid_namespace="pid:[1]")
    assert not is_gone(make_run(home.spool_dir, tracker=tracker))


# -- elsewhere, seen in the file that it writes to ---------------------------------------------------------------------


@pytest.mark.parametrize(("heartbeat_s", "limit_s"), [(0.1, 300), (1, 300), (30, 450), (60, 900)])
def test_silence_of_the_trackers_own_file_is_borne_for_minutes(home: Home, heartbeat_s: float, limit_s: float) -> None:
    path = run_on_n1(home, heartbeat_s=heartbeat_s)
    assert not is_gone(path, limit_s - 5)
    assert is_gone(path, limit_s + 5)


def test_heartbeat_is_a_sign_of_life_where_there_are_no_rows(home: Home) -> None:
    path = run_on_n1(home, heartbeat_s=60)
    with closing(Spool(path, clock=after(800))) as spool:
        spool.beat()
    assert not is_gone(path, 1600)
    assert is_gone(path, 1800)


def test_silence_is_noticed_long_before_it_counts(home: Home) -> None:
    with closing(Spool(run_on_n1(home))) as spool:
        assert not look(spool).is_silent
        assert look(spool, clock=after(20)).is_silent
        assert look(spool, clock=after(240)).silent_s == pytest.approx(240, abs=20)
        assert not look(spool, clock=after(400)).is_silent, "it is gone"


# -- elsewhere, seen in a copy -----------------------------------------------------------------------------------------


def copied_with_cp(path: Path, to: Path) -> Path:
    """The whole directory, as faithfully as cp can."""
    subprocess.run(["cp", "-a", path.parent, to], check=True)
    return to / path.name


def copied_beside(path: Path, _to: Path) -> Path:
    copy = path.with_name(f"20200101-000000-{'0' * 16}.spool")
    shutil.copy2(path, copy)
    return copy


def recorded_by_an_older_version(path: Path, _to: Path) -> Path:
    with closing(Spool(path)) as spool:
        spool._keep_tracker(replace(spool.run().tracker, heartbeat_s=0.0))
    return path


@pytest.mark.parametrize("make", [copied_with_cp, copied_beside, recorded_by_an_older_version])
def test_silence_of_a_copy_means_nothing_for_a_day(
    home: Home, make: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    path = make(run_on_n1(home, job=JOB), tmp_path / "copy")
    assert not is_gone(path, COPY_SILENCE_S - 60)
    assert is_gone(path, COPY_SILENCE_S + 60)
    assert is_gone(path, has_ended=True)


def test_directory_that_was_moved_holds_no_copies(home: Home, tmp_path: Path) -> None:
    path = run_on_n1(home)
    home.spool_dir.rename(tmp_path / "moved")
    assert is_gone(tmp_path / "moved" / path.name, 400)


# -- a person's word ---------------------------------------------------------------------------------------------------


def test_word_that_names_a_run_ends_it_and_one_that_names_none_spares_what_was_seen_just_now(home: Home) -> None:
    path = run_on_n1(home)
    assert is_gone(path, has_ended=True)
    assert not is_gone(path, has_ended=True, spares_recent=True)
    with closing(Spool(path)) as spool:
        spool._keep_tracker(
            replace(spool.run().tracker, file_mark="another")
        )  # a copy, which silence alone does not end
    assert not is_gone(path, RECENT_S - 60, has_ended=True, spares_recent=True)
    assert is_gone(path, RECENT_S + 60, has_ended=True, spares_recent=True)


# -- the scheduler's word ----------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets what `squeue` says, in its own words; before that there is none."""
    bin_dir = home.path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")

    def forget() -> None:
        slurm._cluster.cache_clear()
        slurm._JOBS._ask_at = 0.0

    def says(script: str) -> None:
        for name, text in (("scontrol", "echo 'ClusterName             = hpc'"), ("squeue", script)):
            (bin_dir / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_dir / name).chmod(0o755)
        forget()

    forget()
    yield says
    forget()


def line(state: str, restarts: int = 0, number: int = 4711) -> str:
    return f"echo '{number:<30}{state:<30}{restarts:<30}'"


@pytest.mark.parametrize(
    ("script", "is_over"),
    [
        (line("RUNNING"), False),
        (line("COMPLETING"), False),
        (line("SUSPENDED"), False),
        (line("CANCELLED"), True),
        (line("TIMEOUT"), True),
        (line("PENDING", restarts=1), True),
        (line("RUNNING", restarts=1), True),
        (line("RUNNING", number=4712), True),
        ("exit 0", True),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", False),
        ("sleep 60", False),
    ],
    ids=[
        "runs",
        "ends",
        "suspended",
        "cancelled",
        "timed out",
        "requeued",
        "runs again",
        "forgotten",
        "no jobs",
        "no controller",
        "hangs",
    ],
)
def test_run_of_a_job_that_is_over_is_ended_at_once(
    home: Home, scheduler: Callable[[str], None], script: str, is_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "TIMEOUT_S", 1.0)
    scheduler(script)
    assert is_gone(run_on_n1(home, job=JOB), 10) is is_over


@pytest.mark.parametrize("job", ["", "other/4711/0", "hpc/--help/0", "hpc/4711", "4711"])
def test_scheduler_is_not_asked_about_what_is_none_of_its_jobs(
    home: Home, scheduler: Callable[[str], None], job: str
) -> None:
    asked = home.path / "asked"
    scheduler(f"touch {asked}")
    assert not is_gone(run_on_n1(home, job=job), 10)
    assert not asked.exists()


def test_scheduler_is_asked_once_for_all_runs(home: Home, scheduler: Callable[[str], None]) -> None:
    asked = home.path / "asked"
    scheduler(f"echo once >> {asked}; {line('RUNNING')}")
    assert [is_gone(run_on_n1(home, job=JOB), 10) for _ in range(5)] == [False] * 5
    assert asked.read_text() == "once\n"


def test_nobody_needs_a_scheduler(
    home: Home, scheduler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home.path / "bin"))
    assert not is_gone(run_on_n1(home, job=JOB), 10)
