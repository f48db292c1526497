"""`run`: settings, modes, what is recorded, what is said."""

import json
import os
import re
import resource
import signal
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spool import Run, RunState, Spool, directory, queries
from spool.errors import SpoolRefused
from streaming.cli.commands import run_report
from tests.streaming.cli.conftest import ROOT, AsProgram, InProcess
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.processes import Home, eventually, start_program

WRITING_NO_MODULES = {"PYTHONDONTWRITEBYTECODE": "1"}  # under a limit Python would write half of one, for all of us
CANARY = "canary-token-that-must-not-be-kept"


def only_run(home: Home) -> Run:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        return spool.run()


def metadata(home: Home) -> dict[str, Any]:
    return only_run(home).metadata


def test_without_token_it_records_only_and_says_how_to_deliver(home: Home, program: AsProgram) -> None:
    with program.start("run", "-i", "0.1", "--", "sh", "-c", "read line", stdin=True) as running:
        eventually(lambda: row_count(home) >= 2)
        running.say("go on")
        result = running.wait()
    assert (result.exit_code, result.stdout) == (0, b"")
    lines = result.stderr.decode().splitlines()
    (path,) = directory.spool_paths(home.spool_dir)
    name = path.stem.rpartition("-")[2][:8]
    assert lines[0] == f"tracker-stream: recording sh as run {name}, only on this machine (no SENTINEL_API_TOKEN)"
    assert re.fullmatch(
        rf"tracker-stream: run {name}: exit 0 after [\d.]+ s; (\d+) rows?, 0 sent, \1 waiting", lines[1]
    )
    assert re.match(r"tracker-stream:   CPU    [▁-█]+  average \d+\.\d\d, peak \d+\.\d\d cores$", lines[2])
    assert re.match(r"tracker-stream:   memory [▁-█]+  average \d+, peak \d+ MiB$", lines[3])
    assert lines[4] == f"tracker-stream:   kept in {home.spool_dir} (no SENTINEL_API_TOKEN)"
    assert lines[5] == f"tracker-stream:   to deliver: tracker-stream drain {name}"
    assert "\x1b" not in result.stderr.decode()


def row_count(home: Home) -> int:
    """Rows of the only run, 0 before there is one."""
    for path in directory.spool_paths(home.spool_dir):
        with suppress(SpoolRefused), closing(Spool(path)) as spool:  # just being created
            return queries.counts(spool.connection).recorded
    return 0


@pytest.mark.parametrize(
    ("page", "is_shown"),
    [("/run/abc-1", True), ("//evil.example/", False), ("/run/\x1b[31m", False), (["/run"], False)],
)
def test_page_and_terminal_call_a_run_by_one_name(
    program: AsProgram, far_end: FarEnd, page: object, is_shown: bool
) -> None:
    """The service learns our name of the run; we show its page, if it says where that is."""
    far_end.always("finish", faults.with_fields(page=page))
    result = program("run", "--tag", "fold=3", "--", "true", **far_end.environment())
    said = re.search(rb"recording true as run ([0-9a-f]{8}),", result.stderr)
    assert said is not None
    assert far_end.run().metadata["tags"]["run"] == said[1].decode()
    assert (f"page: {far_end.api_url}{page}\n".encode() in result.stderr) is is_shown
    assert (b"page:" in result.stderr) is is_shown
    shown = program("status", said[1].decode()).stdout.decode()
    assert (re.search(rf"page: +{far_end.api_url}/run/abc-1\n", shown) is not None) is is_shown


def test_page_is_told_while_the_command_runs_and_once(program: AsProgram, home: Home, far_end: FarEnd) -> None:
    far_end.always("register", faults.with_fields(page="/run/abc-1"))
    until_told = 'until grep -q "page: " "$HOME/said"; do sleep 0.05; done; echo over >> "$HOME/said"'
    words = " ".join(map(str, program.line("run", "--", "sh", "-c")))
    script = f"exec {words} '{until_told}' 2>>\"$HOME/said\""
    with start_program(["sh", "-c", script], {**program.environment, **far_end.environment()}) as running:
        assert running.wait(60).exit_code == 0
    said = (home.path / "said").read_text()
    assert said.count(f"page: {far_end.api_url}/run/abc-1\n") == 1
    assert said.index("page: ") < said.index("over") < said.index("exit 0")


def test_quiet_says_nothing(program: AsProgram) -> None:
    assert program("run", "-q", "--", "true").stderr == b""
    assert program("run", "--", "true", TRACKER_QUIET="1").stderr == b""


def test_with_token_it_is_delivered(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    result = program("run", "-n", "train", "-i", "0.1", "--", "sleep", "0.4", **far_end.environment())
    far_end.wait_finished()
    assert result.exit_code == 0
    lines = result.stderr.decode().splitlines()
    assert f"for {far_end.api_url}" in lines[0]
    assert any(re.search(r"; (\d+) rows?, \1 sent, 0 waiting$", line) for line in lines)
    assert far_end.run().metadata["job_name"] == "train"


def test_offline_mode_records_and_touches_no_network(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    result = program("run", "--", "true", TRACKER_STREAM_MODE="offline", **far_end.environment())
    assert b"(offline mode)" in result.stderr
    assert far_end.journal.count() == 0
    assert not only_run(home).has_token


def test_disabled_mode_runs_the_command_and_nothing_else(home: Home, program: AsProgram) -> None:
    result = program("run", "--", "sh", "-c", "echo out; exit 3", TRACKER_STREAM_MODE="disabled")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"")
    assert not home.spool_dir.exists()


def test_disabled_mode_keeps_the_codes_of_a_command_that_cannot_be_started(program: AsProgram, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    assert program("run", "--mode", "disabled", "--", "no-such-command").exit_code == 127
    assert program("run", "--mode", "disabled", "--", str(tmp_path / "plain")).exit_code == 126


def test_only_the_chosen_local_rank_is_tracked(home: Home, program: AsProgram) -> None:
    arguments = ("run", "-q", "--only-local-rank", "0", "--", "true")
    assert program(*arguments, SLURM_JOB_ID="7", SLURM_STEP_ID="0", SLURM_PROCID="5", SLURM_LOCALID="1").exit_code == 0
    assert not home.spool_dir.exists()
    assert program(*arguments, SLURM_JOB_ID="7", SLURM_STEP_ID="0", SLURM_PROCID="4", SLURM_LOCALID="0").exit_code == 0
    assert metadata(home)["tags"]["rank"] == "4"


def test_flag_counts_before_environment_before_file_before_default(home: Home, program: AsProgram) -> None:
    (home.path / "tracker-stream.toml").write_text(
        'job_name = "file"\nteam = "file"\nstage_name = "file"\n[tags]\na = "file"\nb = "file"\n'
    )
    program(
        *("run", "-q", "--job-name", "flag", "--tag", "a=flag", "--", "true"),
        TRACKER_JOB_NAME="environment",
        TRACKER_TEAM="environment",
        TRACKER_TAGS="a=environment,c=environment",
    )
    found = metadata(home)
    assert (found["job_name"], found["team"], found["stage_name"]) == ("flag", "environment", "file")
    tags = {key: found["tags"][key] for key in "abc"}
    assert tags == {"a": "flag", "b": "file", "c": "environment"}
    assert "project_name" not in found


def test_slurm_fills_in_what_the_user_did_not_give(home: Home, program: AsProgram) -> None:
    slurm = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "batch",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    program("run", "-q", "-n", "mine", "--tag", "rank=x", "--", "true", **slurm)
    found = metadata(home)
    assert (found["job_name"], found["external_run_id"], found["orchestrator"]) == ("mine", "77", "slurm")
    assert (found["tags"]["rank"], found["tags"]["local_rank"], found["tags"]["attempt"]) == ("x", "0", "0")


def test_secrets_of_the_command_are_not_recorded(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    words = ["sh", "-c", "exit 0", f"--token={CANARY}", f"https://u:{CANARY}@x/", far_end.token]
    program("run", "-q", "--", *words, **far_end.environment())
    far_end.wait_finished()
    assert metadata(home)["command"] == ["sh", "-c", "exit 0", "--token=***", "https://u:***@x/", "***"]
    sent = str(far_end.run().metadata)
    assert CANARY not in sent
    assert far_end.token not in sent


def test_options_of_the_command_need_no_dashes_before_them(home: Home, program: AsProgram) -> None:
    assert program("run", "-q", "sh", "-c", "exit 8").exit_code == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument"),
        (("--epochs", "3", "train.py"), "run [OPTIONS] -- CMD"),
        (("--interval", "0", "--", "true"), "is not a number of seconds, 0.01 or more"),
        (("--interval", "soon", "--", "true"), "'soon' is not a number of seconds"),
        (("--upload-interval", "inf", "--", "true"), "is not a number of seconds"),
        (("--mode", "sometimes", "--", "true"), "'auto', 'offline', 'disabled'"),
        (("--tag", "fold", "--", "true"), "KEY=VALUE"),
        (("--config", "nowhere.toml", "--", "true"), "nowhere.toml"),
        (("--api-url", "http://example.com", "--", "true"), "use https://"),
        (("--token-file", "/nonexistent", "--", "true"), "cannot be read"),
        (("--token", "abc", "--", "true"), "No such option"),
    ],
)
def test_usage_error_names_the_thing_and_the_remedy(
    home: Home, cli: InProcess, arguments: tuple[str, ...], words: str
) -> None:
    result = cli("run", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not home.spool_dir.exists()


def test_old_name_of_the_token_is_used_with_a_notice(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    settings = far_end.environment()
    settings["SENTINEL_API_KEY"] = settings.pop("SENTINEL_API_TOKEN")
    result = program("run", "--", "true", **settings)
    far_end.wait_finished()
    assert b"its present name is SENTINEL_API_TOKEN" in result.stderr


def test_token_file_is_used(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    file = home.path / "token"
    file.write_text(far_end.token + "\n")
    settings = far_end.environment()
    del settings["SENTINEL_API_TOKEN"]
    program("run", "-q", "--token-file", str(file), "--", "true", **settings)
    far_end.wait_finished()


def test_refused_token_is_told_once_and_rows_are_kept(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    far_end.revoke_token()
    words = ("run", "-i", "0.1", "--exit-wait", "1", "--", "sh", "-c", "echo began; read line")
    with program.start(*words, stdin=True, **far_end.environment()) as running:
        assert running.read_line() == "began"
        eventually(lambda: only_run(home).problem_cause == "token refused")
        running.say("end")
        result = running.wait()
    assert result.exit_code == 0
    assert b"(token refused)" in result.stderr
    assert result.stderr.count(b"refuses the token") <= 1


def test_sigterm_while_waiting_for_the_delivery_ends_the_wait(home: Home, program: AsProgram, far_end: FarEnd) -> None:
    far_end.down()
    with program.start(
        *("run", "--exit-wait", "100", "--", "sh", "-c", "echo done; exit 2"),
        **far_end.environment(),
    ) as running:
        assert running.read_line() == "done"
        eventually(lambda: has_ended(home))
        running.send_signal(signal.SIGTERM)
        assert running.wait(40).exit_code == 2


def has_ended(home: Home) -> bool:
    return only_run(home).state is RunState.ENDED


def test_command_runs_where_no_directory_is_left(program: AsProgram, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = {**program.environment, "PYTHONPATH": str(ROOT)}
    words = [*program.line("run", "--", "sh", "-c", "echo ran; exit 3")]
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    with start_program(["sh", "-c", script, "sh", gone, *words], environment) as running:
        result = running.wait()
    assert (result.exit_code, result.stdout) == (3, b"ran\n")
    assert b"Traceback" not in result.stderr


def test_words_that_are_not_utf8_reach_the_command_and_the_service(
    home: Home, program: AsProgram, far_end: FarEnd
) -> None:
    word = os.fsdecode(b"\xff\xfe")
    settings = {**far_end.environment(), "TRACKER_STREAM_DIR": str(home.spool_dir / word)}
    result = program("run", "--", "printf", "%s", word, **settings)
    far_end.wait_finished()
    assert (result.exit_code, result.stdout) == (0, b"\xff\xfe")
    assert json.loads(far_end.run().metadata["command"])[:2] == ["printf", "%s"]
    assert program("status", **settings).exit_code == 0


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"], ids=["closed", "full"])
def test_run_is_recorded_whole_when_stderr_cannot_be_written(home: Home, program: AsProgram, redirection: str) -> None:
    words = [*program.line("run", "-i", "0.1", "--", "sh", "-c", "sleep 0.5; exit 3")]
    with start_program(["sh", "-c", f'exec "$@" {redirection}', "sh", *words], program.environment) as running:
        assert running.wait().exit_code == 3
    assert (only_run(home).exit_code, only_run(home).state) == (3, RunState.ENDED)
    assert row_count(home) > 1


HINTS = {  # what keeps the run from being finished, rows sent, rows waiting: the hint
    (None, None, 8, 0): "all rows are there, only the run's end is not told yet; to tell it: tracker-stream drain r",
    (None, None, 8, 1): "to deliver: tracker-stream drain r",
    (
        None,
        "token refused",
        0,
        3,
    ): "to deliver: put a token that is valid into SENTINEL_API_TOKEN, then: tracker-stream drain r",
    ("gone", None, 0, 3): "to register it anew, and deliver: tracker-stream drain r --anew",
}


@pytest.mark.parametrize(("state", "hint"), HINTS.items())
def test_hint_at_the_end_is_what_helps(state: tuple[str | None, str | None, int, int], hint: str) -> None:
    parked, cause, sent, waiting = state
    run = SimpleNamespace(parked=parked, problem_cause=cause)
    assert run_report._what_to_do(run, SimpleNamespace(sent=sent, waiting=waiting), "r") == hint


@pytest.mark.parametrize("blocks", [10, 60])
def test_file_size_limit_that_leaves_no_room_for_a_run_is_told_in_one_voice(program: AsProgram, blocks: int) -> None:
    words = [*program.line("run", "--", "sh", "-c", "echo ran; exit 3")]
    script = f'ulimit -f {blocks}; exec "$@"'
    with start_program(["sh", "-c", script, "sh", *words], {**program.environment, **WRITING_NO_MODULES}) as running:
        result = running.wait()
    assert (result.exit_code, result.stdout) == (3, b"ran\n")
    (line,) = result.stderr.decode().splitlines()
    assert "NOT recorded" in line
    assert "ulimit -f" in line
    assert "goes on" not in line


def test_limit_that_is_reached_while_a_run_is_recorded_is_told_as_it_is_and_costs_no_row(
    home: Home, program: AsProgram
) -> None:
    words = [*program.line("run", "-i", "0.05", "--", "sh", "-c", "read line")]
    environment = {**program.environment, **WRITING_NO_MODULES}
    with start_program(["sh", "-c", 'exec "$@" 2>&1', "sh", *words], environment, stdin=True) as running:
        eventually(lambda: row_count(home) >= 1, 30)
        unlimited = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        before = row_count(home)
        told = next(line for line in iter(running.read_line, "") if "spool.unavailable" in line)
        assert (
            "file size limit): free space, or raise the limit (ulimit -f, quota); rows wait in memory for the" in told
        )
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, unlimited)
        eventually(lambda: row_count(home) > before, 30)
        running.say("go on")
        assert b"spool.unavailable" not in running.wait().stdout, "told once"


def test_job_that_srun_named_after_us_is_named_after_the_command(home: Home, program: AsProgram) -> None:
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "tracker-stream", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    program("run", "-q", "--", "/bin/sleep", "0", **slurm)
    assert metadata(home)["job_name"] == "sleep"
