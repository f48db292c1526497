"""`clean` removes what was delivered, and nothing else."""

import time
from contextlib import closing
from pathlib import Path

from spool import Registration, Spool, ownership
from tests.streaming.cli.conftest import InProcess
from tests.support.processes import Home
from tests.support.runs import dead_run, ended_run, live_run


def delivered_run(spool_dir: Path, *, days_ago: float = 30.0) -> Path:
    path = ended_run(spool_dir, row_count=3, job_name="old")
    with closing(Spool(path, clock=lambda: time.time() - days_ago * 86_400)) as spool:
        spool.register(Registration("r1", "s3://bucket/r1"))
        spool.finish({})
    return path


def test_old_delivered_run_goes_with_all_its_files(home: Home, cli: InProcess) -> None:
    path = delivered_run(home.spool_dir)
    path.with_suffix(".log").write_text("log")
    result = cli("clean", "--yes")
    assert result.exit_code == 0
    assert "1 run(s) removed" in result.stdout
    assert [path.name for path in home.spool_dir.iterdir()] == [".origin"], "the mark of the directory"


def test_young_run_stays_until_it_is_old_enough(home: Home, cli: InProcess) -> None:
    path = delivered_run(home.spool_dir, days_ago=6.9)
    assert "Nothing to remove" in cli("clean", "--yes").stdout
    assert path.exists()
    cli("clean", "--yes", "--older-than", "6d")
    assert not path.exists()


def test_undelivered_live_parked_and_refused_runs_stay(home: Home, cli: InProcess) -> None:
    kept = [ended_run(home.spool_dir), dead_run(home.spool_dir), live_run(home.spool_dir)]
    refused = delivered_with_refused_rows(home.spool_dir)
    assert cli("clean", "--yes", "--older-than", "0s").exit_code == 0
    assert all(path.exists() for path in [*kept, refused])


def delivered_with_refused_rows(spool_dir: Path) -> Path:
    path = ended_run(spool_dir, row_count=3)
    with closing(Spool(path, clock=lambda: 1000.0)) as spool:
        for segment in spool.seal_pending():
            spool.count_refusal(segment, "400")
            spool.reject(segment, "refused")
        spool.register(Registration("r1", "s3://bucket/r1"))
        spool.finish({})
    return path


def test_run_that_somebody_works_on_stays(home: Home, cli: InProcess) -> None:
    path = delivered_run(home.spool_dir)
    with ownership.own(path):
        assert "Nothing to remove" in cli("clean", "--yes").stdout
    assert path.exists()


def test_dry_run_removes_nothing(home: Home, cli: InProcess) -> None:
    path = delivered_run(home.spool_dir)
    result = cli("clean", "--dry-run")
    assert result.exit_code == 0
    assert path.stem in result.stdout
    assert "would be removed" in result.stdout
    assert path.exists()


def test_without_a_terminal_and_without_yes_nothing_is_removed(home: Home, cli: InProcess) -> None:
    path = delivered_run(home.spool_dir)
    result = cli("clean", stdin="y\n")
    assert result.exit_code == 2
    assert "add --yes" in result.stderr
    assert path.exists()


def test_age_that_is_none_is_a_usage_error(cli: InProcess) -> None:
    result = cli("clean", "--older-than", "yesterday")
    assert result.exit_code == 2
    assert "12h, 7d or 2w" in result.stderr
