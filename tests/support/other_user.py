"""Programs run by another user than the one who tests: only root can do that."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Home, Program, clean_environment, new_marker, start_program

UID = 65534
SOMEBODY_UID = 65533
SERVICE_UID = 998


@dataclass(frozen=True)
class Nobody:
    """A user without rights, with a home of their own."""

    home: Home
    marker: str
    uid: int = UID

    def owns(self, path: Path) -> None:
        os.chown(path, self.uid, self.uid)

    def run_python(
        self, script: str, *, stdin: str | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        command = [*as_user(self.uid), sys.executable, "-c", script]
        settings = clean_environment(self.home, self.marker, **environment)
        return subprocess.run(command, env=settings, cwd="/", capture_output=True, text=True, timeout=60, input=stdin)

    def start_python(self, script: str, *arguments: str, **settings: str) -> Program:
        """Its standard input is ours to write."""
        command = [*as_user(self.uid), sys.executable, "-c", script, *arguments]
        path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])  # whatever Python it then starts
        environment = clean_environment(self.home, self.marker, PYTHONPATH=path, **settings)
        return start_program(command, environment, cwd=Path("/"), stdin=True)


def as_user(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def _why_impossible() -> str | None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can run a program as another user"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed (scripts/test installs it when run as root)"
    tried = subprocess.run(
        [*as_user(UID), sys.executable, "-c", "import streaming"],
        cwd="/",
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    return None if tried.returncode == 0 else f"another user cannot read this checkout: {tried.stderr.decode()[-200:]}"


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """Skips, saying why, where no program can be run as another user."""
    yield from user(UID)


@pytest.fixture
def somebody() -> Iterator[Nobody]:
    """A second one, neither nobody nor root."""
    yield from user(SOMEBODY_UID)


@pytest.fixture
def service_account() -> Iterator[Nobody]:
    """One below those of people, as a web server has one."""
    yield from user(SERVICE_UID)


def user(uid: int) -> Iterator[Nobody]:
    """That user for one test, which is skipped where there can be none."""
    if reason := _why_impossible():
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix="nobody-", dir="/tmp"))
    try:
        place.chmod(0o755)
        made = Nobody(Home.below(place), new_marker(), uid)
        for path in (made.home.path, made.home.tmp_dir):
            made.owns(path)
        yield made
    finally:
        shutil.rmtree(place)
