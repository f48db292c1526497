"""Nobody else's eyes: modes, planted links, other users' files, and no secret anywhere."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool, SpoolError, directory, ownership
from spool.errors import DirectoryUnusable, SpoolRefused
from tests.support import faults, plays, processes, secrecy, spools
from tests.support.far_end import FarEnd
from tests.support.other_user import UID, Nobody, nobody
from tests.support.processes import Home, clean_environment, start_program, start_script, wait_gone
from tests.support.runs import dead_run

__all__ = ["nobody"]
RECORDING = """
import logging, os, sys, streaming
os.umask(int(sys.argv[2], 8))
logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
manager = streaming.StreamingManager(sys.argv[1], upload_interval=1, host_info={}, cloud_info={})
manager.start()
manager.append(b"timestamp,x\\n1,2\\n")
manager.wait_until_registered(20)
print("recording", flush=True)
sys.stdin.readline()
manager.append(b"3,4\\n")
manager.stop()
"""


@pytest.fixture
def environment(far_end: FarEnd, home: Home, marker: str) -> Iterator[dict[str, str]]:
    yield clean_environment(home, marker, **far_end.environment())
    wait_gone(marker)


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_files_are_private_whatever_the_umask(
    far_end: FarEnd, home: Home, environment: dict[str, str], umask: str
) -> None:
    with start_script(RECORDING, environment, far_end.token, umask, stdin=True) as program:
        assert program.read_line() == "recording"
        far_end.journal.wait_for_count("put", 1, 30)
        files = {path.suffix for path in home.spool_dir.iterdir()}
        modes = {path.stat().st_mode & 0o777 for path in home.spool_dir.iterdir()}
        program.say("go on")
        program.wait(60).check_unfelt()
    assert files == {".spool", ".spool-journal", ".lock", ".log", ""}, "and the mark of the directory"
    assert modes == {0o600}
    assert home.spool_dir.stat().st_mode & 0o777 == 0o700


def test_secrets_are_in_no_file_no_log_no_argv_no_environment_and_no_core(
    far_end: FarEnd, home: Home, marker: str
) -> None:
    settings = {name: text for name, text in far_end.environment().items() if name != "SENTINEL_API_TOKEN"}
    environment = clean_environment(home, marker, **settings)
    script = RECORDING.replace("sys.argv[1]", "sys.stdin.readline().strip()").replace("sys.argv[2]", "sys.argv[1]")
    with start_script(script, environment, "022", stdin=True) as program:
        program.say(far_end.token)
        assert program.read_line() == "recording"
        far_end.journal.wait_for_count("put", 1, 30)
        far_end.expire_now()
        family = [process.pid for process in processes.marked(marker)]
        assert len(family) == 2, "the program and its uploader"
        secrecy.secret(far_end.secrets(), directories=[home.path, home.tmp_dir], pids=family)
        (uploader,) = [pid for pid in family if pid != program.pid]
        limits = Path(f"/proc/{uploader}/limits").read_text().splitlines()
        assert next(line for line in limits if line.startswith("Max core")).split()[4:6] == ["0", "0"]
        program.say("go on")
        result = program.wait(60).check_unfelt()
    wait_gone(marker)
    assert far_end.journal.count("refresh") >= 1
    secrecy.secret(far_end.secrets(), directories=[home.path, home.tmp_dir], logs=[result.stdout, result.stderr])


def test_token_that_another_variable_holds_reaches_no_process_of_ours(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    path = dead_run(home.spool_dir, token=far_end.token, api_url=far_end.api_url)
    far_end.always("register", faults.answer(503))
    more = {**environment, "MY_OWN_NAME": far_end.token, "URL_WITH_IT": f"https://x:{far_end.token}@example.org"}
    command = [sys.executable, "-m", "streaming", "drain", path.stem, "--timeout", "3"]
    with start_program(command, more) as program:
        far_end.journal.wait_for_count("register", 1, 30)
        others = [process.pid for process in processes.marked(environment[processes.MARKER_NAME])]
        secrecy.secret([far_end.token], directories=[], pids=[pid for pid in others if pid != program.pid])
        program.wait(60)


def test_crash_of_the_uploader_leaves_no_secret_behind(
    far_end: FarEnd, home: Home, environment: dict[str, str]
) -> None:
    with start_script(RECORDING, environment, far_end.token, "022", stdin=True) as program:
        assert program.read_line() == "recording"
        family = processes.marked(environment[processes.MARKER_NAME])
        (uploader,) = [process for process in family if process.pid != program.pid]
        processes.kill(uploader, signal.SIGABRT)
        program.say("go on")
        program.wait(60).check_unfelt()
    secrecy.secret(far_end.secrets(), directories=[home.path, home.tmp_dir])


# -- planted links -----------------------------------------------------------------------------------------------------


def test_spool_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "spools").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DirectoryUnusable, match="is a symbolic link"):
        Spool.create(tmp_path / "spools", plays.new_run())
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("suffix", [directory.SUFFIX, directory.JOURNAL_SUFFIX])
def test_spool_or_journal_that_is_a_link_is_refused(tmp_path: Path, suffix: str) -> None:
    path = spools.filled(tmp_path / "spools", [spools.rows(1)])
    planted = path.with_suffix(suffix)
    target = tmp_path / "target"
    planted.rename(target)
    planted.symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(SpoolRefused, match="is not a plain file"):
        Spool(path)
    assert target.read_bytes() == before


def test_lock_that_is_a_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    path = spools.filled(tmp_path / "spools", [spools.rows(1)])
    target = tmp_path / "target"
    target.write_text("precious")
    path.with_suffix(directory.LOCK_SUFFIX).symlink_to(target)
    with pytest.raises(SpoolRefused, match="is a symbolic link"), ownership.own(path):
        pass
    assert target.read_text() == "precious"


def test_log_that_is_a_link_is_not_followed(far_end: FarEnd, home: Home, environment: dict[str, str]) -> None:
    target = home.path / "target"
    script = RECORDING.replace(
        "manager.start()",
        "from spool import Spool; create = Spool.create\n"
        "def planted(*given, **named):\n"
        f"    made = create(*given, **named); os.symlink({str(target)!r}, made.path.with_suffix('.log')); return made\n"
        "Spool.create = planted\n"
        "manager.start()",
    )
    with start_script(script, environment, far_end.token, "022", stdin=True) as program:
        assert program.read_line() == "recording"
        program.say("go on")
        program.wait(60).check_unfelt()
    assert not target.exists()
    assert far_end.run().finish is not None, "delivered without a log"


def test_new_spool_is_not_written_through_a_link_planted_under_its_name(tmp_path: Path) -> None:
    from spool.database import schema

    target = tmp_path / "target"
    planted = tmp_path / "new.spool"
    planted.symlink_to(target)
    with pytest.raises(SpoolError):
        schema.create_file(planted, plays.new_run())
    assert not target.exists()


# -- another user ------------------------------------------------------------------------------------------------------


def test_another_users_spool_is_refused(nobody: Nobody) -> None:
    path = spools.filled(nobody.home.path / "theirs", [spools.rows(1)])
    os.chown(path, UID, UID)
    with pytest.raises(SpoolRefused, match=f"belongs to user {UID}, not to you"):
        Spool(path)


def test_another_user_can_read_nothing_of_ours(nobody: Nobody) -> None:
    nobody.home.path.chmod(0o755)
    path = spools.filled(nobody.home.path / "ours", [spools.rows(1)])
    with closing(Spool(path)):
        done = nobody.run_python(f"import os; print(os.listdir({str(path.parent)!r}))")
    assert "PermissionError" in done.stderr
    assert done.stdout == ""
