"""The command runs, whatever else is called `streaming` where Python looks for packages."""

import shutil
import sys
from pathlib import Path

import pytest

from spool import directory
from tests.support.processes import ROOT, Home, ProgramResult, clean_environment, start_program, wait_gone

COMMAND = Path(sys.executable).with_name("tracker-stream")
START = [sys.executable, "-c", "import tracker_stream; tracker_stream.main()"]
BROKEN = "raise RuntimeError('not the package that was meant')\n"
SCRIPT = ("sh", "-c", "echo ran $1; exit 3", "sh", "word")


def run(home: Home, marker: str, *words: str | Path, **environment: str) -> ProgramResult:
    with start_program(words, clean_environment(home, marker, **environment)) as program:
        result = program.wait(60)
    wait_gone(marker)
    return result


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder with modules of a user's own."""
    for name in ("streaming", "spool", "click", "queue", "platformdirs", "json"):
        (tmp_path / f"{name}.py").write_text(BROKEN)
    return tmp_path


@pytest.fixture
def overwritten(tmp_path: Path) -> Path:
    """Where another distribution with a package `streaming` was installed after us."""
    for package in ("streaming", "spool"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "server"))
    shutil.copy(ROOT / "streaming" / "cli" / "launcher.py", tmp_path / "tracker_stream.py")
    (tmp_path / "streaming" / "__init__.py").write_text("from streaming.base import StreamingDataset\n")
    return tmp_path


@pytest.mark.skipif(not COMMAND.exists(), reason="the command is not installed beside this interpreter")
def test_users_own_modules_keep_nothing_from_being_recorded(home: Home, marker: str, others: Path) -> None:
    result = run(home, marker, COMMAND, "run", "-i", "0.1", "--", *SCRIPT, PYTHONPATH=str(others))
    assert (result.exit_code, result.stdout) == (3, b"ran word\n")
    assert b"recording sh as run" in result.stderr
    assert b"Traceback" not in result.stderr
    assert len(directory.spool_paths(home.spool_dir)) == 1


@pytest.mark.parametrize(
    "options",
    [(), ("--",), ("-q", "--"), ("-n", "train", "--"), ("--job-name=x", "--tag", "a=b"), ("-ntrain", "-i", "2", "--")],
    ids=" ".join,
)
def test_command_runs_unrecorded_where_our_package_was_overwritten(
    home: Home, marker: str, overwritten: Path, options: tuple[str, ...]
) -> None:
    result = run(home, marker, *START, "run", *options, *SCRIPT, PYTHONPATH=str(overwritten))
    assert (result.exit_code, result.stdout) == (3, b"ran word\n")
    (line,) = result.stderr.decode().splitlines()
    assert "NOT recorded: another distribution was installed over its package" in line
    assert not home.spool_dir.exists()


@pytest.mark.parametrize(("word", "code"), [("no-such-command", 127), ("/", 126)])
def test_command_that_cannot_be_started_keeps_its_code_then(
    home: Home, marker: str, overwritten: Path, word: str, code: int
) -> None:
    assert run(home, marker, *START, "run", word, PYTHONPATH=str(overwritten)).exit_code == code


def test_command_runs_unrecorded_where_a_library_is_broken(home: Home, marker: str, overwritten: Path) -> None:
    shutil.copy(ROOT / "streaming" / "__init__.py", overwritten / "streaming" / "__init__.py")
    (overwritten / "streaming" / "cli" / "options.py").write_text(BROKEN)
    result = run(home, marker, *START, "run", *SCRIPT, PYTHONPATH=str(overwritten))
    assert (result.exit_code, result.stdout) == (3, b"ran word\n")
    assert b"NOT recorded: its own code cannot be loaded (RuntimeError" in result.stderr


def test_doctor_tells_that_our_package_was_overwritten(home: Home, marker: str, overwritten: Path) -> None:
    result = run(home, marker, *START, "doctor", PYTHONPATH=str(overwritten))
    assert result.exit_code == 1
    assert b"another distribution was installed over its package" in result.stderr
    assert b"pip install --force-reinstall" in result.stderr


def test_doctor_tells_that_we_have_overwritten_another_package(home: Home, marker: str, tmp_path: Path) -> None:
    about = tmp_path / "mosaicml_streaming-0.8.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mosaicml-streaming\nVersion: 0.8\n")
    (about / "RECORD").write_text("streaming/__init__.py,,\nstreaming/base/__init__.py,,\n")
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    result = run(home, marker, sys.executable, "-m", "streaming", "doctor", **environment)
    assert b"mosaicml-streaming" in result.stdout


def test_file_size_limit_leaves_no_half_of_a_compiled_module_behind(home: Home, marker: str, overwritten: Path) -> None:
    """It would be the end of recording for every run of this installation. (Python sees no error in a short write.)"""
    shutil.copy(ROOT / "streaming" / "__init__.py", overwritten / "streaming" / "__init__.py")
    limit = ("sh", "-c", 'ulimit -f 20; exec "$@"', "sh")
    limited = run(home, marker, *limit, *START, "run", *SCRIPT, PYTHONPATH=str(overwritten))
    assert (limited.exit_code, limited.stdout) == (3, b"ran word\n")
    assert b"no room left" in limited.stderr
    result = run(home, marker, *START, "run", *SCRIPT, PYTHONPATH=str(overwritten))
    assert b"recording sh as run" in result.stderr
