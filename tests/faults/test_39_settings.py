"""39: a setting of the environment or of a file that cannot be used costs one warning; the run is recorded all the same."""

import sys
from contextlib import closing
from pathlib import Path

import pytest

from spool import Run, Spool, directory, queries
from tests.support.far_end import FarEnd
from tests.support.processes import Home, ProgramResult, clean_environment, run_script, start_program, wait_gone

NONSENSE = {
    "SENTINEL_API_URL": "http://10.1.2.3:8080",
    "SENTINEL_S3_ENDPOINT_URL": "minio:9000",
    "SENTINEL_API_TOKEN_FILE": "/nowhere/token",
    "SENTINEL_API_TOKEN": "two words",
    "TRACKER_STREAM_MODE": "sometimes",
    "TRACKER_STREAM_LINGER": "x",
    "TRACKER_STREAM_KEEP_DAYS": "soon",
    "TRACKER_STREAM_EXIT_WAIT": "-1",
    "TRACKER_INTERVAL": "0",
    "TRACKER_UPLOAD_INTERVAL": "nan",
    "TRACKER_TAGS": "fold",
    "TRACKER_QUIET": "perhaps",
}
NO_TOKEN = {"SENTINEL_API_URL", "SENTINEL_S3_ENDPOINT_URL", "SENTINEL_API_TOKEN", "SENTINEL_API_TOKEN_FILE"}
NEVER_SENT = {*NO_TOKEN, "TRACKER_STREAM_MODE"}
IN_TRACKER_ONLY = {"TRACKER_STREAM_KEEP_DAYS"}  # read by the uploader


def only_run(home: Home) -> tuple[Run, int]:
    (path,) = directory.spool_paths(home.spool_dir)
    with closing(Spool(path)) as spool:
        return spool.run(), queries.counts(spool.connection).recorded


def command(environment: dict[str, str], *words: str, cwd: Path | None = None) -> ProgramResult:
    with start_program([sys.executable, "-m", "streaming", "run", *words], environment, cwd=cwd) as program:
        return program.wait()


def surroundings(home: Home, marker: str, far_end: FarEnd, *names: str) -> dict[str, str]:
    settings = {**far_end.environment(), "TRACKER_STREAM_LINGER": "2", **{name: NONSENSE[name] for name in names}}
    if "SENTINEL_API_TOKEN_FILE" in names:
        del settings["SENTINEL_API_TOKEN"]
    return clean_environment(home, marker, **settings)


SENT_ALL_THE_SAME = tuple(name for name in NONSENSE if name not in NEVER_SENT)


@pytest.mark.parametrize(
    "names", [*((name,) for name in sorted(NEVER_SENT)), SENT_ALL_THE_SAME], ids=lambda names: names[0]
)
def test_command_runs_and_is_recorded(home: Home, marker: str, far_end: FarEnd, names: tuple[str, ...]) -> None:
    environment = surroundings(home, marker, far_end, *names)
    result = command(environment, "--", "sh", "-c", "sleep 0.3; echo ran; exit 3")
    assert (result.exit_code, result.stdout) == (3, b"ran\n")
    run, row_count = only_run(home)
    assert (run.exit_code, row_count > 0) == (3, True)
    told = [line for line in result.stderr.decode().splitlines() if "setting.unusable" in line]
    expected = set(names) - IN_TRACKER_ONLY
    assert len(told) == len(expected), told
    assert all(any(name in line for line in told) for name in expected), told
    if NEVER_SENT.intersection(names):
        assert far_end.journal.count() == 0
        assert not NO_TOKEN.intersection(names) or not run.has_token
    else:
        far_end.wait_finished()
    wait_gone(marker)


IN_A_PROGRAM = """
import logging, sys, streaming
logging.basicConfig(format="%(message)s")
manager = streaming.StreamingManager("token-of-the-program", host_info={}, cloud_info={}, stop_timeout=5)
manager.start()
manager.append(b"timestamp,x\\n1,2\\n")
manager.stop(exit_code=3)
with streaming.track(host_info={}, cloud_info={}):
    print("ran")
"""


@pytest.mark.parametrize("name", ["SENTINEL_API_URL", "SENTINEL_S3_ENDPOINT_URL", "TRACKER_STREAM_LINGER"])
def test_program_runs_and_is_recorded(home: Home, marker: str, far_end: FarEnd, name: str) -> None:
    result = run_script(IN_A_PROGRAM, surroundings(home, marker, far_end, name))
    assert (result.exit_code, result.stdout) == (0, b"ran\n")
    assert len(directory.spool_paths(home.spool_dir)) == 2
    assert result.stderr.decode().count("setting.unusable") == 1
    if name in NEVER_SENT:
        assert far_end.journal.count() == 0
    wait_gone(marker)


def test_file_that_somebody_left_in_the_working_directory_gets_no_token(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    shared = home.path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    stranger = 'api_url = "http://127.0.0.1:9"\nmode = "disabled"\njob_name = "theirs"\n'
    (shared / "tracker-stream.toml").write_text(stranger)
    result = command(clean_environment(home, marker, **far_end.environment()), "--", "true", cwd=shared)
    far_end.wait_finished()
    assert b"can be written by others" in result.stderr
    assert "job_name" not in far_end.run().metadata
    wait_gone(marker)
