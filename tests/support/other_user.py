"""Programs run by another user than the one who tests: only root can do that."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Home, clean_environment, new_marker

UID = 65534


@dataclass(frozen=True)
class Nobody:
    """A user without rights, with a home of their own."""

    home: Home
    marker: str

    def owns(self, path: Path) -> None:
        os.chown(path, UID, UID)

    def run_python(self, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [*_AS_NOBODY, sys.executable, "-c", script]
        settings = clean_environment(self.home, self.marker, **environment)
        return subprocess.run(command, env=settings, cwd="/", capture_output=True, text=True, timeout=60)


_AS_NOBODY = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]


def _why_impossible() -> str | None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can run a program as another user"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed (scripts/test installs it when run as root)"
    tried = subprocess.run(
        [*_AS_NOBODY, sys.executable, "-c", "import streaming"],
        cwd="/",
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    return None if tried.returncode == 0 else f"another user cannot read this checkout: {tried.stderr.decode()[-200:]}"


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """Skips, saying why, where no program can be run as another user."""
    if reason := _why_impossible():
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix="nobody-", dir="/tmp"))
    try:
        place.chmod(0o755)
        made = Nobody(Home.below(place), new_marker())
        for path in (made.home.path, made.home.tmp_dir):
            made.owns(path)
        yield made
    finally:
        shutil.rmtree(place)
