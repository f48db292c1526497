"""Fixtures of the fault tests."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import recovery, secrecy
from tests.support.far_end import FarEnd
from tests.support.nursery import Nursery
from tests.support.processes import Home, clean_environment, new_marker


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Children that may be killed, ready at once."""
    home = Home.below(tmp_path_factory.mktemp("nursery"))
    with Nursery.open(clean_environment(home, new_marker())) as made:
        yield made


@pytest.fixture
def a_copy(tmp_path: Path) -> Callable[[str], Path]:
    """A copy, in a directory of that name, of a dead tracker's spool: what a child works on."""
    template = recovery.dead_run(tmp_path / "template")

    def copy(name: str) -> Path:
        place = tmp_path / name
        place.mkdir(mode=0o700)
        for file in template.parent.iterdir():
            shutil.copy(file, place)
        return place / template.name

    return copy


@pytest.fixture
def no_secret_on_disk(far_end: FarEnd, tmp_path: Path) -> Iterator[None]:
    """After the test, no token and no key of the far end is in any byte below its directory, deleted pages included."""
    yield
    secrecy.secret(far_end.secrets(), directories=[tmp_path])


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """A spool directory for one test; it does not exist yet."""
    return tmp_path / "spools"


@pytest.fixture
def fast_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for tests that open thousands of spools and need no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)
