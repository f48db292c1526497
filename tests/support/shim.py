"""`shim.c`, compiled once per test run, as the environment that preloads it into a child."""

import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")


def preload(**settings: str) -> dict[str, str]:
    """The environment that makes a child's C library lie, e.g. `preload(SHIM_FLOCK="lie")`. Skips without a compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the shim with (scripts/test installs it when run as root)")
    return {"LD_PRELOAD": str(_compiled()), **settings}


@lru_cache
def _compiled() -> Path:
    _directory.append(tempfile.TemporaryDirectory(prefix="shim-"))
    library = Path(_directory[0].name, "shim.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


_directory: list["tempfile.TemporaryDirectory[str]"] = []
