"""Fixtures of the fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nursery import Nursery
from tests.support.processes import Home, clean_environment, new_marker


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Children that may be killed, ready at once."""
    home = Home.below(tmp_path_factory.mktemp("nursery"))
    with Nursery.open(clean_environment(home, new_marker())) as made:
        yield made


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """A spool directory for one test; it does not exist yet."""
    return tmp_path / "spools"
