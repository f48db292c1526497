"""Which runs a name means."""

from pathlib import Path

import pytest

from spool import directory
from spool.errors import NoSuchRun
from streaming.read.names import find_run, find_runs
from tests.support.runs import ended_run


def job_run(place: Path, *, at: float, job: str = "39", external: str = "39", name: str = "train") -> Path:
    tags = {"job": job} if job else {}
    return ended_run(place, started_at=at, external_run_id=external, job_name=name, tags=tags)


def test_job_id_means_all_its_runs_and_the_newest_where_one_is_wanted(tmp_path: Path) -> None:
    first, second = job_run(tmp_path, at=1e9), job_run(tmp_path, at=1e9 + 1, external="39_7")
    other = job_run(tmp_path, at=1e9 + 2, job="40", external="40", name="eval")
    assert find_runs(tmp_path, ("39",)) == [first, second]
    assert find_run(tmp_path, "39") == second
    assert find_runs(tmp_path, ("39_7",)) == [second]
    assert find_runs(tmp_path, ("eval", "39")) == [other, first, second]
    assert find_runs(tmp_path, ("train", "39")) == [first, second]


def test_latest_is_the_newest_run(tmp_path: Path) -> None:
    job_run(tmp_path, at=1e9)
    newest = job_run(tmp_path, at=2e9)
    assert find_runs(tmp_path, ("latest",)) == [newest]


def test_id_of_a_scheduler_that_is_part_of_a_runs_name_means_the_job(tmp_path: Path) -> None:
    older = job_run(tmp_path, at=1e9, job="", external="2001", name="")  # 1e9 is in the year 2001
    job_run(tmp_path, at=1e9 + 1, job="", external="7", name="")
    assert find_run(tmp_path, "2001") == older


def test_a_runs_own_name_counts_first(tmp_path: Path) -> None:
    path = job_run(tmp_path, at=1e9, job="", external="")
    job_run(tmp_path, at=2e9, job=directory.short_name(path))
    assert find_runs(tmp_path, (directory.short_name(path),)) == [path]
    assert find_runs(tmp_path, (path.stem,)) == [path]


def files(place: Path, *names: str) -> list[Path]:
    paths = [place / f"{name}.spool" for name in names]
    for path in paths:
        path.write_bytes(b"")
    return paths


def test_run_is_found_by_any_part_of_its_name_and_by_path(tmp_path: Path) -> None:
    first, second = files(tmp_path, "2026-alpha", "2026-beta")
    assert find_run(tmp_path, "alph") == first
    assert find_run(Path("/nowhere"), str(second)) == second
    with pytest.raises(NoSuchRun, match="ambiguous: 2026-alpha, 2026-beta"):
        find_run(tmp_path, "2026")
    with pytest.raises(NoSuchRun, match="no run or job 'gamma'"):
        find_run(tmp_path, "gamma")


def test_name_that_begins_another_is_found_exactly(tmp_path: Path) -> None:
    files(tmp_path, "run", "run-2")
    assert find_run(tmp_path, "run").stem == "run"


def test_nothing_is_named_where_nothing_is(tmp_path: Path) -> None:
    for name in ("latest", "39"):
        with pytest.raises(NoSuchRun):
            find_run(tmp_path / "absent", name)
