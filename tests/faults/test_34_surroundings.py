"""Programs and surroundings that make it hard for us: each delivers its rows, and is itself not disturbed."""

import os
import shutil
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.far_end import FarEnd
from tests.support.hostile_programs import Hostile
from tests.support.processes import (
    ROOT,
    Home,
    Program,
    ProgramResult,
    eventually,
    start_program,
    start_script,
    wait_gone,
)
from tests.support.programs import uploaders

Run = Callable[..., ProgramResult]

START = (
    programs.PREAMBLE
    + """
manager = new_manager()
manager.start()
append(manager, 0, 5)
"""
)


@pytest.fixture
def hostile(home: Home, marker: str, far_end: FarEnd) -> Hostile:
    return Hostile(home, marker, far_end)


# What a program does between its first rows and the rest, or to itself before it begins.
# Several at once, which do not hide each other's effects: each case starts two uploaders.
DURING = {
    "signals": """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
""",
    "no directory, no umask, no environment, no path": """
os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')
os.umask(0o777)
os.environ.clear()
sys.path.clear()
""",
    "interpreter unknown, open umask, no standard streams": """
sys.executable = ''
os.umask(0)
os.close(0); os.close(2); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
""",
    "embedded, other directory, recursion limit, profile": """
sys.executable = '/usr/sbin/uwsgi'; del sys.argv
os.chdir('/')
sys.setrecursionlimit(100)
sys.setprofile(lambda *_: None); sys.settrace(lambda *_: None)
""",
}


@pytest.mark.parametrize("what", DURING)
def test_done_before_start_and_while_it_runs(hostile: Hostile, what: str) -> None:
    """First the deeds, then a run; its uploader is killed, so that another is started under the same conditions. Neither
    is the program's child."""
    result = hostile.run(
        programs.PREAMBLE
        + "import signal\nmanager = new_manager()\n"
        + DURING[what]
        + """
manager.start()
append(manager, 0, 5)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise AssertionError("we are its child")
deadline = time.monotonic() + 60
while not manager.uploaded_uris and time.monotonic() < deadline:
    time.sleep(0.02)
os.kill(manager._recorder.uploader_pid, signal.SIGKILL)
append(manager, 5, 8)
manager.stop()
"""
    )
    result.check_unfelt()
    hostile.judge(8)


CLOSED = """
import fcntl
victim = os.path.join(os.environ["HOME"], "victim")

def close_all_and_open_own():
    "As a daemon does; then files of the program's own take the numbers of ours."
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, highest + 1)
    files = []
    while len(files) < highest:
        files.append(os.open(victim, os.O_RDWR | os.O_CREAT))
    return files
"""


def test_descriptors_closed_behind_our_back_and_reused(hostile: Hostile) -> None:
    """We write to none of the program's files, close none of them, and deliver."""
    result = hostile.run(
        START
        + CLOSED
        + """
files = close_all_and_open_own()
append(manager, 5, 8)
time.sleep(1.5)
append(manager, 8, 9)
print(manager.stop() != {})
for file in files:
    os.fstat(file)
assert os.path.getsize(victim) == 0, open(victim, "rb").read()
"""
    )
    result.check_unfelt()
    assert b"True" in result.stdout
    hostile.judge(9)
    assert not list(hostile.home.spool_dir.glob("*damaged*"))


def test_descriptors_closed_just_before_stop(hostile: Hostile) -> None:
    """The spool's own, too: the end is recorded all the same."""
    hostile.run(START + CLOSED + "files = close_all_and_open_own()\nmanager.stop(exit_code=4)\n").check_unfelt()
    hostile.judge(5, exit_code=4)


def test_program_that_becomes_a_daemon_after_start(hostile: Hostile) -> None:
    """The usual double fork, with all descriptors closed: the run ends with the process that began it."""
    result = hostile.run(
        START
        + """
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 1000)
assert manager.stop() == {}
assert not manager.is_alive
"""
    )
    result.check_unfelt()
    hostile.judge(5, run_status="failed", exit_code=None)


def test_sigpipe_that_kills_does_not_come_from_us(hostile: Hostile) -> None:
    """Command line tools restore SIGPIPE's default. Our uploader dies; telling it must not be the program's death."""
    hostile.run(
        START
        + """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
while manager._recorder.uploader_pid is None:
    time.sleep(0.02)
os.kill(manager._recorder.uploader_pid, signal.SIGKILL)
manager._recorder._link.tell({"do": "hello"})
manager.stop()
"""
    ).check_unfelt()
    hostile.judge(5)


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)], ids=str)
def test_standard_streams_closed_from_the_beginning(hostile: Hostile, closed: tuple[int, ...]) -> None:
    """Nothing of ours comes to lie under 0, 1 and 2, where others write."""
    script = hostile.home.path / "script.py"
    script.write_text(
        START.replace("print(*words, flush=True)", "pass")
        + """
for number in (0, 1, 2):
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        continue
    if number in CLOSED and target != os.devnull:  # which SQLite opens, so that its file is none of these
        os._exit(9)
manager.stop()
""".replace("CLOSED", repr(closed))
    )
    redirections = " ".join(f"{number}>&-" for number in closed)
    command = f'exec "$0" "$1" {redirections}'
    assert hostile.run_command(["sh", "-c", command, sys.executable, script]).exit_code == 0
    hostile.judge(5)


SHADOWED = ("queue", "token", "requests", "boto3", "json", "logging", "select", "urllib3", "spool", "streaming")


@pytest.mark.parametrize("where", ["script directory", "PYTHONPATH", "working directory"])
def test_user_modules_named_like_ours_are_not_imported(hostile: Hostile, where: str, tmp_path: Path) -> None:
    """The program itself gets along with its `queue.py`, since it has no use for the library's."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + ' ')\n")
    script = (folder if where == "script directory" else hostile.home.path) / "main.py"
    clean = f"import sys\nsys.path[:] = [{str(ROOT)!r}] + [e for e in sys.path if e != {str(folder)!r}]\n"
    script.write_text(clean + START + f"sys.path.insert(0, {str(folder)!r})\nmanager.stop()\n")
    more = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} if where == "PYTHONPATH" else {}
    flags = ["-S"] if more else []  # `site` would import the program's own modules
    if more:
        script.write_text(clean + f"sys.path += {_site_packages()!r}\n" + START + "manager.stop()\n")
    with start_program(
        [sys.executable, *flags, script], hostile.environment(**more), cwd=folder if where.startswith("work") else None
    ) as program:
        program.wait().check_unfelt()
    hostile.judge(5)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


def _site_packages() -> list[str]:
    return [entry for entry in sys.path if entry.endswith("site-packages")]


def test_sitecustomize_of_the_program_is_not_run_in_ours(hostile: Hostile, tmp_path: Path) -> None:
    """It prints, unbuffered as in containers, and `track` reads its child's last words from a pipe."""
    (tmp_path / "sitecustomize.py").write_text("print('noise', flush=True)\n")
    result = hostile.run(
        "import streaming, time\nwith streaming.track(interval=0.1, host_info={}, cloud_info={}):\n    time.sleep(0.5)\n",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        PYTHONUNBUFFERED="1",
    )
    result.check_unfelt()
    assert b"track." not in result.stderr
    hostile.far_end.wait_finished()
    wait_gone(hostile.marker)


ELSEWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_PROFILE": "nobody",
    "AWS_CA_BUNDLE": "/nowhere",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "TZ": "Pacific/Kiritimati",
}


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1", "PYTHONINSPECT": "1"},
        {"PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **ELSEWHERE},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_odd_settings(hostile: Hostile, settings: dict[str, str]) -> None:
    hostile.run(START + "manager.stop()\n", **settings).check_unfelt()
    hostile.judge(5)


def test_isolated_program_in_a_broken_python_environment(hostile: Hostile) -> None:
    """With -I the interpreter does not look at PYTHONHOME; our children must not either."""
    script = hostile.home.path / "script.py"
    script.write_text(f"import sys; sys.path.append({str(ROOT)!r})\n" + START + "manager.stop()\n")
    hostile.run_command([sys.executable, "-I", script], PYTHONHOME="/nowhere", PYTHONPATH="/nowhere").check_unfelt()
    hostile.judge(5)


def test_package_inside_a_zip(hostile: Hostile, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("streaming", "spool"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "__main__.py").write_text(START + "assert '.pyz' in streaming.__file__\nmanager.stop()\n")
    zipapp.create_archive(source, tmp_path / "program.pyz")
    environment = hostile.environment()
    environment.pop("PYTHONPATH")
    with start_program([sys.executable, tmp_path / "program.pyz"], environment) as program:
        program.wait().check_unfelt()
    hostile.judge(5)


def test_relative_csv_path_and_spool_directory_stay_where_they_were(hostile: Hostile) -> None:
    """Both mean what they meant when the manager was made, whatever directory is current later."""
    hostile.run(
        programs.PREAMBLE
        + """
os.mkdir("work"); os.chdir("work")
manager = new_manager(csv_path="rows.csv", spool_dir="spools")
os.chdir("/")
manager.start()
path = os.path.join(os.environ["HOME"], "work", "rows.csv")
with open(path, "wb") as file:
    file.write(b"timestamp,x\\n" + b"".join(map(row, range(6))))
manager.stop()
assert os.listdir(os.path.join(os.environ["HOME"], "work", "spools"))
"""
    ).check_unfelt()
    hostile.judge(6)


def test_home_that_cannot_be_written_is_one_clear_error(hostile: Hostile) -> None:
    """For `StreamingManager` an exception that names the remedy; for `track` a warning, and the block runs."""
    result = hostile.run(
        programs.PREAMBLE
        + """
from streaming.errors import BadArgument
from spool import SpoolError
os.environ["HOME"] = "/dev/null"
del os.environ["TRACKER_STREAM_DIR"]
try:
    new_manager().start()
except SpoolError as error:
    assert "TRACKER_STREAM_DIR" in str(error), error
else:
    raise AssertionError("started")
with streaming.track():
    say("ran")
"""
    ).check_unfelt()
    assert result.stdout == b"ran\n"
    assert b"track.not_started" in result.stderr
    assert b"TRACKER_STREAM_DIR" in result.stderr


def test_unknown_user_without_home_is_told_and_gets_no_spool_named_tilde(hostile: Hostile) -> None:
    """As in a container under a random user id: `~` leads nowhere, and the system knows no home."""
    result = hostile.run(
        programs.PREAMBLE
        + """
import pwd
def nobody(_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
for name in ("HOME", "TRACKER_STREAM_DIR"):
    del os.environ[name]
from spool import SpoolError
try:
    new_manager().start()
except SpoolError as error:
    say(error)
with streaming.track():
    say(os.path.exists("~"))
"""
    ).check_unfelt()
    assert b"TRACKER_STREAM_DIR" in result.stdout
    assert b"track.not_started" in result.stderr
    assert result.stdout.endswith(b"False\n")


def test_thousand_runs_of_one_program_leave_no_descriptor_open(hostile: Hostile) -> None:
    """After `stop` nothing of a run is left in the program; its id and its objects can still be asked for."""
    result = hostile.run(
        programs.PREAMBLE
        + """
def descriptors():
    return len(os.listdir("/proc/self/fd"))
managers = []
before = descriptors()
for number in range(3):
    manager = new_manager()
    manager.start()
    append(manager, 0, 1)
    assert manager.stop()
    managers.append(manager)
assert descriptors() == before, descriptors() - before
import threading
assert threading.active_count() == 1
for manager in managers:
    assert manager.run_id
    assert all(uri.startswith("s3://") for uri in manager.uploaded_uris)
    assert not manager.is_alive
    assert manager.stop()
"""
    )
    result.check_unfelt()
    wait_gone(hostile.marker)


def test_stop_in_a_signal_handler_during_append_ends_the_run(hostile: Hostile) -> None:
    """The handler interrupts the very transaction that it needs; what it said is recorded when the program ends."""
    result = hostile.run(
        START
        + """
import signal
def on_term(*_):
    manager.stop(exit_code=143, run_status="failed")
    sys.exit(143)
signal.signal(signal.SIGTERM, on_term)
spool = manager._recorder.spool
step = spool.step
def interrupted(name):
    if name == "append:inserted":
        os.kill(os.getpid(), signal.SIGTERM)
    step(name)
spool.step = spool._step = interrupted
append(manager, 5, 6)
"""
    )
    assert result.exit_code == 143
    hostile.judge(5, run_status="failed", exit_code=143)


def test_odd_arguments(hostile: Hostile) -> None:
    """Numbers of other libraries, values that JSON cannot hold: taken as what they mean, or refused in words."""
    result = hostile.run(
        programs.PREAMBLE
        + """
import math
from streaming.errors import BadArgument
class Int64:
    "As numpy's: an integer that sqlite3 does not know."
    def __index__(self):
        return 7
loop = {}
loop["loop"] = loop
for bad in (loop, {("a", "b"): 1}):
    try:
        new_manager(metadata=bad)
    except BadArgument as error:
        assert "metadata" in str(error), error
    else:
        raise AssertionError("taken")
manager = new_manager(metadata={"tags": {"loss": math.nan, "path": __import__("pathlib").Path("/x")}, "command": 5})
manager.start()
append(manager, 0, 5)
assert manager.stop(exit_code=Int64())
"""
    )
    result.check_unfelt()
    hostile.judge(5, exit_code=7)


def test_clock_that_jumps_does_not_shorten_the_wait_of_stop(hostile: Hostile) -> None:
    result = hostile.run(
        START
        + """
real = time.time
time.time = lambda: real() - 7200
assert manager.stop()
"""
    )
    result.check_unfelt()
    hostile.judge(5)


def test_uploader_that_cannot_work_does_not_disturb(hostile: Hostile, tmp_path: Path) -> None:
    """A defect in the child is in the run's log, by its type and place and without a word of its text."""
    broken = tmp_path / "streaming"
    shutil.copytree(ROOT / "streaming", broken, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "spool", tmp_path / "spool", ignore=shutil.ignore_patterns("__pycache__"))
    uploader = broken / "upload" / "main.py"
    uploader.write_text(
        uploader.read_text().replace("def main(", "def main(order): raise KeyError(order)\ndef old_main(")
    )
    result = hostile.run(START + "assert manager.stop() == {}\n".replace("stop()", "stop()"), PYTHONPATH=str(tmp_path))
    assert result.exit_code == 0
    assert "uploader.defect: KeyError" in hostile.log()
    assert hostile.far_end.token not in hostile.log()
    wait_gone(hostile.marker)


def test_uploader_of_a_program_under_observation_is_found(hostile: Hostile) -> None:
    """The helper that this file's other tests rely on: a living run has exactly one uploader."""
    with start_script(START + "sys.stdin.readline()\nmanager.stop()\n", hostile.environment(), stdin=True) as program:
        _until_ready(program)
        eventually(lambda: len(uploaders(hostile.marker)) == 1)
        program.say("end")
        program.wait().check_unfelt()
    hostile.judge(5)


def _until_ready(program: Program) -> None:
    programs.read_until(program, "appended 4")
