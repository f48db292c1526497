"""Starting our own processes: what of the caller reaches them, and what does not."""

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from streaming.errors import BadArgument, LaunchFailed
from streaming.processes import launch
from tests.support.processes import Home, clean_environment, run_script, wait_gone


def test_secrets_and_aws_settings_of_the_caller_do_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"SENTINEL_API_TOKEN": "a", "SENTINEL_API_KEY": "b", "AWS_ENDPOINT_URL": "c", "AWS_PROFILE": "d"}
    for name, text in {**settings, "HARMLESS": "e", "HIDDEN": "the-token-itself"}.items():
        monkeypatch.setenv(name, text)
    inherited = launch.environment(["the-token-itself"])
    assert "HARMLESS" in inherited
    assert not {*settings, "HIDDEN"} & set(inherited)


def test_child_finds_what_the_caller_found_but_not_its_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py")])
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", "relative", "/somewhere"])
    found = launch.import_path()
    assert found[0] == str(Path(launch.__file__).parents[2])
    assert found[1:] == ["/somewhere"]


def test_unknown_and_impossible_start_methods_are_told() -> None:
    assert launch.require_start_method("spawn") == "spawn"
    with pytest.raises(BadArgument, match="'thread' is unknown"):
        launch.require_start_method("thread")
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    with pytest.raises(BadArgument, match="other threads"):
        launch.require_start_method("fork")
    stop.set()
    other.join()


def test_child_that_cannot_be_started_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(launch, "interpreter", lambda: str(home.path / "no-python"))
    with pytest.raises(LaunchFailed, match="cannot be started") as told:
        launch.start("discovery", {}, log_path=None)
    assert "tracker-stream drain" in told.value.hint
    assert len(set(os.listdir("/proc/self/fd"))) == len(before), "no pipe is left open"


def test_program_without_free_descriptors_is_told_so_and_none_is_left_open(home: Home) -> None:
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    for free_count in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free_count, limits[1]))
        try:
            with pytest.raises(LaunchFailed, match="cannot be started"):
                launch.start("discovery", {}, log_path=None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(os.listdir("/proc/self/fd")) == before


CHILD = """
import json, os, sys
from pathlib import Path
from streaming.processes import launch
inheritable = os.open(os.devnull, os.O_RDONLY)
os.set_inheritable(inheritable, True)
child = launch.start("discovery", {"cloud": False}, log_path=None, method=sys.argv[1])
status = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
facts = {
    "is_our_child": int(status[1]) == os.getpid(),
    "has_own_session": int(status[3]) != os.getsid(0),
    "argv": Path(f"/proc/{child.pid}/cmdline").read_text().split("\\0")[:1],
}
facts["ended"] = child.wait(60)
child.close()
child.close()
try:
    os.waitpid(-1, os.WNOHANG)
    facts["nobody_to_wait_for"] = False
except ChildProcessError:
    facts["nobody_to_wait_for"] = True
print(json.dumps(facts))
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_child_is_detached_and_its_end_is_seen(home: Home, marker: str, method: str) -> None:
    result = run_script(CHILD, clean_environment(home, marker), method).check_unfelt()
    facts = json.loads(result.stdout)
    assert facts["ended"]
    assert facts["has_own_session"]
    assert not facts["is_our_child"]
    assert facts["nobody_to_wait_for"], "no zombie, nothing in the caller's os.wait()"
    wait_gone(marker)


def test_order_and_token_are_not_in_argv(home: Home, marker: str) -> None:
    script = (
        "from streaming.processes import launch\nfrom pathlib import Path\n"
        "child = launch.start('discovery', {'cloud': False, 'token': 'canary-in-an-order'}, log_path=None)\n"
        "print('canary-in-an-order' in Path(f'/proc/{child.pid}/cmdline').read_text())\n"
        "print('canary-in-an-order' in Path(f'/proc/{child.pid}/environ').read_text())\n"
        "child.wait(60); child.close()\n"
    )
    result = run_script(script, clean_environment(home, marker)).check_unfelt()
    assert result.stdout.split() == [b"False", b"False"]
    wait_gone(marker)


def test_log_of_a_child_is_private(home: Home, marker: str, tmp_path: Path) -> None:
    log = home.path / "child.log"
    script = (
        "import os, sys\nos.umask(0)\nfrom pathlib import Path\nfrom streaming.processes import launch\n"
        "child = launch.start('discovery', {'cloud': False}, log_path=Path(sys.argv[1]))\nchild.wait(60); child.close()\n"
    )
    run_script(script, clean_environment(home, marker), str(log)).check_unfelt()
    assert log.stat().st_mode & 0o777 == 0o600
    wait_gone(marker)


def test_embedded_python_without_an_executable_finds_one() -> None:
    code = "import sys; sys.executable = ''; from streaming.processes import launch; print(launch.interpreter())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert os.access(done.stdout.strip(), os.X_OK)
