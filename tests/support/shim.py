"""`shim.c`, compiled, as the environment that preloads it into a child."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")


def preload(place: Path, **settings: str) -> dict[str, str]:
    """The environment that makes a child's C library lie, e.g. `preload(tmp_path, SHIM_FLOCK="lie")`.

    The library is put into the directory `place`. Skips the test where there is no compiler.
    """
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the shim with (scripts/test installs it when run as root)")
    library = place / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), **settings}
