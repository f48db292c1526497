"""Fault 12: the spool directory cannot be used, or goes away in mid-run. One loud message; the program goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool import Spool, directory
from spool.errors import DirectoryUnusable
from tests.support import oracle, plays
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.other_user import Nobody, nobody
from tests.support.processes import Home, clean_environment, eventually, start_script, wait_gone

__all__ = ["nobody"]
HEADER = b"timestamp,x\n"
PROGRAM = """
import logging, sys, streaming
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
token, csv_path = sys.argv[1:3]
manager = streaming.StreamingManager(token, csv_path, upload_interval=1, spool_interval=0.05, stop_timeout=10,
                                     host_info={}, cloud_info={})
manager.start()
print("started", flush=True)
sys.stdin.readline()
manager.run_id, manager.uploaded_uris
print(bool(manager.stop(exit_code=0)), flush=True)
sys.exit(7)
"""


@pytest.fixture
def environment(far_end: FarEnd, home: Home, marker: str) -> Iterator[dict[str, str]]:
    yield clean_environment(home, marker, **far_end.environment())
    wait_gone(marker)


def test_fault_12_directory_that_is_renamed_and_comes_back_loses_nothing(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    with start_script(PROGRAM, environment, far_end.token, str(csv_path), stdin=True) as program:
        assert program.read_line() == "started"
        far_end.journal.wait_for_count("put", 1, 30)
        elsewhere = home.path / "elsewhere"
        home.spool_dir.rename(elsewhere)
        csv_path.write_bytes(csv_path.read_bytes() + b"2,b\n")
        eventually(lambda: not home.spool_dir.exists())
        elsewhere.rename(home.spool_dir)
        csv_path.write_bytes(csv_path.read_bytes() + b"3,c\n")
        far_end.journal.wait_for_count("put", 2, 60)
        program.say("stop")
        program.wait(60).check_unfelt(exit_code=7)
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n2,b\n3,c\n"]), run_status="finished", exit_code=0)


def _remove(directory: Path) -> None:
    """Like rm -rf, again where the uploader made a file in between."""

    def is_gone() -> bool:
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    eventually(is_gone, 10, "the directory is removed")


def test_fault_12_directory_that_is_removed_is_told_once_and_the_program_goes_on(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    csv_path = home.path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    with start_script(PROGRAM, environment, far_end.token, str(csv_path), stdin=True) as program:
        assert program.read_line() == "started"
        far_end.journal.wait_for_count("register", 1, 30)
        _remove(home.spool_dir)
        csv_path.write_bytes(csv_path.read_bytes() + b"2,b\n")
        program.say("stop")
        result = program.wait(60).check_unfelt(exit_code=7, at_most_s=45)
    assert result.stdout == b"False\n"
    told = [line for line in result.stderr.splitlines() if b"has vanished" in line]
    assert len(told) == 1, result.stderr.decode()
    assert str(home.spool_dir).encode() in told[0]
    assert b"bring" in told[0]


UNUSABLE = """
import sys, streaming
try:
    streaming.StreamingManager("token", host_info={}, cloud_info={}).start()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_fault_12_directory_without_rights_is_refused_in_words_at_the_start(nobody: Nobody, mode: int) -> None:
    nobody.home.spool_dir.mkdir(mode=0o700)
    nobody.owns(nobody.home.spool_dir)
    nobody.home.spool_dir.chmod(mode)
    done = nobody.run_python(UNUSABLE)
    assert done.stdout.startswith("DirectoryUnusable "), done.stderr
    assert str(nobody.home.spool_dir) in done.stdout
    assert "TRACKER_STREAM_DIR" in done.stdout


def test_fault_12_another_users_directory_is_refused_in_words(nobody: Nobody) -> None:
    nobody.home.spool_dir.mkdir(mode=0o777)
    nobody.home.spool_dir.chmod(0o777)
    done = nobody.run_python(UNUSABLE)
    assert done.stdout.startswith("DirectoryUnusable "), done.stderr
    assert "belongs to user 0, not to you" in done.stdout


def test_fault_12_tracked_command_runs_untracked_where_nothing_can_be_recorded(home: Home, marker: str) -> None:
    home.spool_dir.write_text("a file")
    words = [sys.executable, "-m", "streaming", "run", "--", "sh", "-c", "exit 3"]
    done = subprocess.run(words, env=clean_environment(home, marker), capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert f"the spool directory {home.spool_dir} is a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_fault_12_directory_of_other_files_open_to_others_is_not_tightened(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "thesis.tex").write_text("mine")
    with pytest.raises(DirectoryUnusable, match="holds other files"):
        Spool.create(shared, plays.new_run())
    assert os.stat(shared).st_mode & 0o777 == 0o755
    assert directory.spool_paths(shared) == []
