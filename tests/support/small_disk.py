"""A disk of a few megabytes for one test: a tmpfs in a mount namespace of its own, which goes with its processes."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1",mode=0700 tmpfs "$2" && shift 2 && exec "$@"'


@lru_cache
def why_impossible() -> str | None:
    """Why nothing can be mounted here, None if it can."""
    if shutil.which("unshare") is None:
        return "unshare is not installed (scripts/test installs it when run as root)"
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return None if tried.returncode == 0 else f"this user may not mount: {tried.stderr.decode().strip()}"


def require_mounts() -> None:
    """Skip the test, saying why, where nothing can be mounted."""
    if reason := why_impossible():
        pytest.skip(reason)


def command(words: Sequence[str | Path], mounted_at: Path, *, size: str) -> list[str]:
    """`words`, to be run with a disk of that size at `mounted_at`, which nobody outside sees."""
    mounted_at.mkdir(parents=True, exist_ok=True)
    return ["unshare", "-m", "sh", "-c", _MOUNT, "sh", size, str(mounted_at), *map(str, words)]


def seen_from_outside(pid: int, path: Path) -> Path:
    """The path as that process sees it."""
    return Path("/proc", str(pid), "root") / str(path).lstrip("/")


def fill(directory: Path, *, name: str = "filler") -> Path:
    """A file that takes all the room that is left. Remove it to have room again."""
    filler = directory / f".probe-{name}"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for size in (1 << 16, 1 << 12, 1):
            _write_until_full(descriptor, size)
    finally:
        os.close(descriptor)
    return filler


def _write_until_full(descriptor: int, size: int) -> None:
    while True:
        try:
            os.write(descriptor, b"\1" * size)
        except OSError:
            return
