"""`status`: what people and programs read, and its exit codes."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool
from tests.streaming.cli.conftest import InProcess
from tests.support.processes import Home
from tests.support.runs import dead_run, ended_run, live_run


def test_no_run_is_said_in_words(home: Home, cli: InProcess) -> None:
    result = cli("status")
    assert (result.exit_code, result.stdout) == (0, f"No runs in {home.spool_dir}.\n")


def test_table_shows_state_rows_and_what_waits(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, row_count=1234, job_name="train")
    text = cli("status").stdout
    assert text.splitlines()[0].split() == [
        "RUN",
        "JOB",
        "STATE",
        "STARTED",
        "DURATION",
        "EXIT",
        "ROWS",
        "SENT",
        "WAITING",
    ]
    assert text.splitlines()[1].split()[:3] == [path.stem.rpartition("-")[2][:8], "train", "waiting"]
    assert "1,234" in text
    assert "waiting: 1,234 rows" in text
    assert "no token" in text
    assert "tracker-stream drain" in text


def test_exit_codes_are_a_column_and_a_jobs_failures_come_first(home: Home, cli: InProcess) -> None:
    for rank, code in enumerate((0, 137, 1)):
        path = live_run(home.spool_dir, row_count=1, tags={"job": "39", "rank": str(rank)})
        with closing(Spool(path)) as spool:
            spool.end(exit_code=code, run_status="failed" if code else "finished", ended_at=1_700_000_100.0)
    assert re.search(r"^39 .* 1, 137, 0  +3 ", cli("status").stdout, re.MULTILINE)
    expanded = [line.split() for line in cli("status", "--expand").stdout.splitlines()]
    assert [cells[-4] for cells in expanded if cells[1:2] == ["rank"]] == ["0", "137", "1"]


def test_cause_of_a_problem_is_shown(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir)
    with closing(Spool(path)) as spool:
        spool.note_problem("the service https://x cannot be reached (TLS)", cause="TLS")
    assert "  TLS: the service https://x cannot be reached (TLS)" in cli("status").stdout


def test_json_has_a_schema_version_and_stable_keys(home: Home, cli: InProcess) -> None:
    ended_run(home.spool_dir, row_count=3, job_name="train")
    document = json.loads(cli("status", "--json").stdout)
    assert document.keys() == {"schema_version", "generated_at", "spool_dir", "uploaders", "runs"}
    assert document["schema_version"] == 1
    (run,) = document["runs"]
    assert run.keys() == {
        *("run", "path", "state", "run_id", "job_name", "metadata", "started_at", "ended_at", "finished_at"),
        *("last_row_at", "duration_s", "silent_s", "exit_code", "run_status", "rows", "waiting_bytes", "waiting_since"),
        *("objects", "is_being_delivered", "problem", "page_url"),
    }
    assert run["rows"] == {"recorded": 3, "sent": 0, "waiting": 3, "rejected": 0, "lost": 0}
    assert run["started_at"].endswith("Z")
    assert run["waiting_bytes"] > 0


def test_json_of_no_run_is_a_document_too(cli: InProcess) -> None:
    assert json.loads(cli("status", "--json").stdout)["runs"] == []


def test_one_run_is_shown_in_detail(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, job_name="train", command=["python", "train.py"], tags={"fold": "3"})
    text = cli("status", path.stem[-6:]).stdout
    assert f"run {path.stem}" in text
    assert "python train.py" in text
    assert "fold=3" in text


def test_details_say_how_the_run_ended(home: Home, cli: InProcess) -> None:
    path = live_run(home.spool_dir, row_count=1)
    with closing(Spool(path)) as spool:
        spool.end(exit_code=3, run_status="failed", ended_at=1_700_000_100.0)
    text = cli("status", path.stem).stdout
    assert re.search(r"ended: +\S+ \S+ failed\n", text), text


@pytest.mark.parametrize(("make", "code"), [(ended_run, 3), (dead_run, 3), (live_run, 0)])
def test_check_exits_with_3_when_something_waits(home: Home, cli: InProcess, make: object, code: int) -> None:
    make(home.spool_dir)  # type: ignore[operator]
    assert cli("status", "--check").exit_code == code
    assert cli("status").exit_code == 0


def test_check_of_nothing_is_0(cli: InProcess) -> None:
    assert cli("status", "--check").exit_code == 0


def test_unknown_and_ambiguous_runs_are_usage_errors(home: Home, cli: InProcess) -> None:
    ended_run(home.spool_dir)
    ended_run(home.spool_dir)
    unknown = cli("status", "nosuchrun")
    assert unknown.exit_code == 2
    assert "no run or job 'nosuchrun'" in unknown.stderr
    ambiguous = cli("status", "20")
    assert ambiguous.exit_code == 2
    assert "ambiguous" in ambiguous.stderr
    assert "give more characters" in ambiguous.stderr


def test_watch_and_json_exclude_each_other(cli: InProcess) -> None:
    assert cli("status", "--watch", "--json").exit_code == 2


def test_control_characters_of_a_run_do_not_reach_the_terminal(home: Home, cli: InProcess) -> None:
    path = ended_run(home.spool_dir, job_name="\x1b[31mevil\x07\nname", command=["\x1b]0;title\x07"])
    for arguments in (("status",), ("status", path.stem)):
        assert not set(cli(*arguments).stdout) & set("\x1b\x07")


def job_of(home: Home, rank_count: int) -> None:
    """Two attempts of a job on two nodes, and a run that belongs to nobody."""
    for attempt in range(2):
        for rank in range(rank_count):
            tags = {"job": "39", "rank": str(rank), "world_size": str(rank_count), "step": "0", "attempt": str(attempt)}
            ended_run(
                home.spool_dir,
                row_count=100,
                job_name="train",
                external_run_id="39",
                tags={**tags, "host": f"n{rank % 2}"},
                started_at=1_700_000_000.0 + 1000 * attempt,
            )
    ended_run(home.spool_dir, row_count=5, job_name="alone", started_at=1_700_009_000.0)


def test_runs_of_a_job_are_one_line(home: Home, cli: InProcess) -> None:
    job_of(home, 8)
    lines = cli("status").stdout.splitlines()
    assert lines[1].split()[:2] == ["39", "train"]
    assert "train (16 runs, 2 nodes, 2 attempts)  waiting" in lines[1]
    assert "1,600" in lines[1]
    assert "18 min 20 s" in lines[1]  # from the first start to the last end
    assert lines[2].strip().startswith("waiting: 1,600 rows")
    assert "no token" in lines[3]
    assert "(16 runs)" in lines[3]
    assert "alone" in lines[4]
    assert "17 runs: 17 waiting." in lines[-1]


@pytest.mark.parametrize("arguments", [("--expand",), ("39",), ("train",)])
def test_expanded_job_shows_step_rank_host_and_attempt(home: Home, cli: InProcess, arguments: tuple[str, ...]) -> None:
    job_of(home, 2)
    lines = [line for line in cli("status", *arguments).stdout.splitlines() if "rank" in line]
    places = [re.sub("^ +[0-9a-f]{8} +", "", line).partition("  ")[0] for line in lines]
    assert places == [
        "step 0, rank 0 of 2, n0",
        "step 0, rank 1 of 2, n1",
        "step 0, rank 0 of 2, n0, attempt 1",
        "step 0, rank 1 of 2, n1, attempt 1",
    ]


def test_tags_of_any_shape_are_shown(home: Home, cli: InProcess) -> None:
    for tags in (None, "x", ["a"], {"job": {"a": 1}}, {"job": 39}, {"job": "\x1b[31m"}):
        ended_run(home.spool_dir, tags=tags)
    shown = cli("status", "--expand")
    assert (shown.exit_code, "\x1b" in shown.stdout) == (0, False)
    assert "6 runs" in shown.stdout


def test_directory_of_a_user_that_nobody_knows_is_one_of_that_name(cli: InProcess) -> None:
    result = cli("status", "--spool-dir", "~nobody-knows/runs")
    assert (result.exit_code, result.stdout) == (0, f"No runs in {Path.cwd() / '~nobody-knows/runs'}.\n")
