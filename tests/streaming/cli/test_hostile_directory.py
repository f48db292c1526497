"""One spool that is odd, damaged or hostile in a directory: every command goes on with the others, and names it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spool import Batch, RunState, Spool, directory
from tests.faults.test_security_guests import maze
from tests.streaming.cli.conftest import InProcess
from tests.support import plays, spools
from tests.support.far_end import FarEnd
from tests.support.processes import Home, clean_environment, wait_gone
from tests.support.runs import dead_run, dead_tracker

DEEP = f'{{"a":{"[" * 200_000}{"]" * 200_000}}}'
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m"


def changed(sql: str, *values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with spools.raw(path) as connection:
            connection.execute(sql, values)

    return change


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


ODDITIES: dict[str, Callable[[Path], None]] = {
    "metadata deeper than anybody reads": changed("UPDATE run SET metadata = ?", DEEP),
    "metadata of shapes that nobody expects": changed(
        "UPDATE run SET metadata = ?", '{"job_name": {"a": []}, "tags": [1], "command": 7, "external_run_id": [[]]}'
    ),
    "infinite rows": changed("UPDATE batch SET row_count = 9e999"),
    "appended at no time": changed("UPDATE batch SET appended_at = 'x'"),
    "started before time began": changed("UPDATE run SET started_at = -1e300"),
    "a tracker that is a list": changed("UPDATE run SET tracker = '[]'"),
    "a parked text that a terminal obeys": changed("UPDATE run SET parked = ?", ESCAPES),
    "a job name that a terminal obeys": changed("UPDATE run SET metadata = ?", json.dumps({"job_name": ESCAPES})),
    "an address that a shell obeys": changed("UPDATE run SET api_url = ?", f"http://x/{ESCAPES}$(touch owned);"),
    "a trigger": changed("CREATE TRIGGER planted AFTER UPDATE ON run BEGIN DELETE FROM batch; END"),
    "a table name that a terminal obeys": changed(f'CREATE TABLE "{ESCAPES}" (x)'),
    "pages without end": maze,
    "a super-journal": lambda path: spools.plant_super_journal(path, path.parent / "notes"),
    "no database": replaced(lambda path: path.write_bytes(b"nothing of the kind" * 999)),
    "a directory": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
}
COMMANDS = {
    "status": ["status"],
    "status --expand": ["status", "--expand"],
    "status --json": ["status", "--json"],
    "drain --dry-run": ["drain", "--dry-run"],
    "drain": ["drain", "--timeout", "50"],
    "clean": ["clean", "--older-than", "0s", "--dry-run"],
    "export": ["export", "good job"],
    "doctor": ["doctor"],
}
NAMES_ALL = ("status", "status --expand", "status --json", "drain --dry-run", "drain")


def test_every_command_goes_on_with_the_others_and_names_the_odd_ones(
    home: Home, far_end: FarEnd, marker: str, tmp_path: Path
) -> None:
    environment = clean_environment(home, marker, **far_end.environment(), TRACKER_STREAM_LINGER="0")
    good = dead_run(home.spool_dir, job_name="good job", token=far_end.token, api_url=far_end.api_url)
    odd = {oddity: odd_run(home, oddity) for oddity in ODDITIES}
    for name, words in COMMANDS.items():
        done = subprocess.run(
            [sys.executable, "-m", "streaming", *words], env=environment, cwd=tmp_path, capture_output=True, timeout=90
        )
        said = (done.stdout + done.stderr).decode()
        assert "Traceback" not in said, (name, said)
        assert "API_URL=" not in said, "no address that a spool names is put into a command to run"
        assert done.returncode in (0, 1, 3), (name, said)
        assert not set("\x1b\x07\x9b") & set(said), (name, said)
        if name == "export":
            assert done.stdout.count(b"\n") == 11, said
        if name in NAMES_ALL:
            missing = [each for each, path in odd.items() if directory.short_name(path) not in said]
            if "1 run was recorded for" in said:  # runs of another service are told of by their service
                missing.remove("an address that a shell obeys")
            assert missing == [], (name, said)
            assert directory.short_name(good) in said, (name, said)
    assert not (tmp_path / "owned").exists()
    with closing(Spool(good)) as spool:
        assert spool.run().state is RunState.FINISHED, "the other one is delivered"
    wait_gone(marker)


@pytest.mark.parametrize("words", [["status"], ["export"], ["doctor"]], ids=" ".join)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_one_by_its_name_is_told_in_words(cli: InProcess, home: Home, oddity: str, words: list[str]) -> None:
    done = cli(*words, odd_run(home, oddity).stem)
    assert done.exit_code in (0, 1, 2)
    assert done.stdout + done.stderr
    assert not set("\x1b\x07\x9b") & set(done.stdout + done.stderr)


def odd_run(home: Home, oddity: str) -> Path:
    with closing(Spool.create(home.spool_dir, plays.new_run())) as spool:
        spool.append([Batch(spools.HEADER, spools.rows(number)) for number in range(9)])
        spool.take_over(dead_tracker())
    ODDITIES[oddity](spool.path)
    return spool.path


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json"], ["doctor"], ["doctor", "--json"], ["clean"], ["--help"]]
)
def test_full_disk_below_stdout_is_told_in_a_line(home: Home, far_end: FarEnd, marker: str, words: list[str]) -> None:
    dead_run(home.spool_dir, job_name="j" * 9000)
    environment = clean_environment(home, marker, **far_end.environment())
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "streaming", *words],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.stderr.decode().strip() == "Error: the output cannot be written (No space left on device)"
    assert done.returncode == 1
