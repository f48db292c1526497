"""Fault 40, where an engine is met: other users, containers, a new version of the code, and no place for a socket at all."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from spool import directory
from streaming.processes import engine_link, engine_socket
from streaming.processes.runtime_folder import runtime_folder
from tests.support import oracle, other_user
from tests.support.far_end import FarEnd
from tests.support.other_user import Nobody, nobody
from tests.support.processes import ROOT, Home, Process, eventually, start_program, start_script
from tests.support.programs import APPENDING, PREAMBLE, log_of, read_until, surroundings, told, uploaders
from tests.support.runs import ended_run

__all__ = ["nobody"]
HOMELESS_UID = 65531

TWO_RUNS = (
    PREAMBLE
    + """
managers = [new_manager(), new_manager()]
for manager in managers:
    manager.start()
    append(manager, 0, 10)
for manager in managers:
    say("delivered", bool(manager.stop()))
"""
)

OFFLINE_FIRST = (
    PREAMBLE
    + """
manager = new_manager()
manager.start()
append(manager, 0, 10)
say("ready")
sys.stdin.readline()
give_up_at = time.monotonic() + 60
while not manager.uploaded_uris and time.monotonic() < give_up_at:
    time.sleep(0.05)
say("delivered", bool(manager.uploaded_uris))
manager.stop()
"""
)


def other(marker: str, than: Sequence[Process]) -> Process:
    """The engine that came up beside those."""
    (found,) = eventually(lambda: set(uploaders(marker)) - set(than), 30, "no other engine")
    return found


def judge_all(far_end: FarEnd, count: int) -> None:
    assert len(far_end.runs) == count
    for run in far_end.runs:
        oracle.judge(far_end.evidence(run.run_id), told(10), run_status="finished", exit_code=0)


# -- other users -------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_folder(home: Home, nobody: Nobody, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our runtime folder, which is the working directory: its path is too long for a socket."""
    ended_run(home.spool_dir)
    with runtime_folder() as folder:
        place = folder.resolve()
    monkeypatch.chdir(place)
    return place


def by_another_user(script: str, folder: Path, *, keeps: Sequence[int] = ()) -> str:
    """What a program of another user says, who was let into our folder by mistake."""
    folder.chmod(0o711)
    try:
        command = [*other_user.as_user(other_user.UID), sys.executable, "-c", f"import socket; {script}"]
        return subprocess.check_output(command, pass_fds=keeps, text=True)
    finally:
        folder.chmod(0o700)


def test_socket_that_another_user_serves_is_not_spoken_to(home: Home, own_folder: Path) -> None:
    name = engine_socket.socket_name(home.spool_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as planted:
        planted.bind(name)
        number = planted.fileno()
        by_another_user(f"socket.socket(fileno={number}).listen()", own_folder, keeps=[number])
        assert engine_link.find(home.spool_dir) is None
        claim = engine_socket.claim(name)
        assert claim is not None, "its place is ours"
        claim.retire()


def test_another_user_who_gets_at_the_socket_is_told_nothing(home: Home, own_folder: Path, marker: str) -> None:
    with closing(engine_link.find_or_start(home.spool_dir)) as link:
        eventually(lambda: link.events(1.0) and link.engine_pid)
        (name,) = engine_socket.names(home.spool_dir)
        (own_folder / name).chmod(0o666)
        asks = f"s = socket.socket(socket.AF_UNIX); s.connect({name!r}); print(s.recv(99))"
        assert by_another_user(asks, own_folder) == "b''\n"
        assert link.is_open


@pytest.fixture
def homeless() -> Iterator[Nobody]:
    """A user who can have no runtime folder: there is a stranger's file at each of its names."""
    for made in other_user.user(HOMELESS_UID):
        taken = [Path(place, f"tracker-stream-{HOMELESS_UID}") for place in (made.home.tmp_dir, "/tmp")]
        for path in taken:
            path.touch(0o600)
        yield made
        for path in taken:
            path.unlink()


def test_without_a_place_for_a_socket_each_run_has_an_engine_of_its_own(homeless: Nobody, far_end: FarEnd) -> None:
    with homeless.start_python(TWO_RUNS, **far_end.environment()) as program:
        result = program.wait()
    assert result.stdout.decode().splitlines()[-2:] == ["delivered True", "delivered True"], result.stderr
    judge_all(far_end, 2)


# -- containers --------------------------------------------------------------------------------------------------------


def test_container_that_shares_the_directory_has_an_engine_of_its_own_and_dies_alone(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    environment = surroundings(home, marker, far_end)
    script = home.path / "appending.py"
    script.write_text(APPENDING)
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, script]
    if subprocess.run([*container[:-2], "true"], capture_output=True).returncode:
        pytest.skip("no process namespace may be made here")
    with (
        start_script(script, environment, stdin=True) as outside,
        start_program(container, environment, stdin=True) as inside,
        start_program(container, environment, stdin=True) as doomed,
    ):
        for program in (outside, inside, doomed):
            read_until(program, "ready")
        eventually(lambda: len(uploaders(marker)) == 3, 30, "one engine for each")
        doomed.kill()
        for program in (outside, inside):
            program.say("go on")
            program.wait().check_unfelt()
    paths = directory.spool_paths(home.spool_dir)  # by name: nobody is spared because it was seen a moment ago
    with start_program([sys.executable, "-m", "streaming", "drain", "--ended", *paths], environment) as drain:
        assert drain.wait().exit_code == 0
    statuses = sorted(str(run.finish and run.finish["run_status"]) for run in far_end.runs)
    assert statuses == ["failed", "finished", "finished"]
    for run in far_end.runs:
        has_failed = run.finish is not None and run.finish["run_status"] == "failed"
        expected = told(10) if has_failed else told(12)
        status, code = ("failed", None) if has_failed else ("finished", 0)
        oracle.judge(far_end.evidence(run.run_id), expected, run_status=status, exit_code=code)


# -- another version of the code ---------------------------------------------------------------------------------------


@pytest.fixture
def installed(home: Home) -> Path:
    """The package as `pip install` puts it somewhere."""
    place = home.path / "site"
    for package in ("spool", "streaming"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__", "web"))
    return place


def upgrade(place: Path) -> None:
    """The new version speaks another protocol, and has a module elsewhere that the old one has not imported yet."""
    link, reachability = (
        place / "streaming" / name for name in ("processes/engine_socket.py", "upload/reachability.py")
    )
    link.write_text(link.read_text().replace("PROTOCOL = 1", "PROTOCOL = 2"))
    reachability.write_text(reachability.read_text().replace("streaming.clients.s3 ", "streaming.clients.store "))
    (place / "streaming/clients/s3.py").rename(place / "streaming/clients/store.py")


def test_upgrade_under_a_running_engine_brings_a_new_one_and_the_old_ends_its_work(
    home: Home, marker: str, far_end: FarEnd, installed: Path
) -> None:
    environment = surroundings(home, marker, far_end, PYTHONPATH=str(installed))
    far_end.down()
    with start_script(OFFLINE_FIRST, environment, stdin=True) as before:
        read_until(before, "ready")
        eventually(lambda: "cannot be reached" in log_of(home.spool_dir))
        (old,) = uploaders(marker)
        upgrade(installed)
        with start_script(OFFLINE_FIRST, environment, stdin=True) as after:
            read_until(after, "ready")
            new = other(marker, [old])
            far_end.up()
            for program in (before, after):
                program.say("go on")
                assert read_until(program, "delivered")[-1] == "delivered True"
            assert new.is_alive
            eventually(lambda: not old.is_alive, 30, "the old version does not leave")
            before.wait().check_unfelt()
            after.wait().check_unfelt()
    judge_all(far_end, 2)
