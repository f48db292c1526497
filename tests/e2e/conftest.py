"""The real target, started once for all end-to-end tests of a worker, and what each test makes of it.

The tests are in two groups (`xdist_group`), so that two workers at most start a target.
"""

from collections.abc import Iterator

import pytest

from streaming.server.process.embedded import EmbeddedServer, embedded
from tests.e2e.far_side import FarSide
from tests.e2e.program import User
from tests.support.processes import Home


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """SeaweedFS and the API, real processes. A test that stops one of them starts it again."""
    with embedded(tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def far_side(target: EmbeddedServer) -> Iterator[FarSide]:
    with FarSide(target) as made:
        yield made


@pytest.fixture
def user(far_side: FarSide, home: Home, marker: str) -> Iterator[User]:
    """Somebody who runs programs against this far side, from a HOME of their own."""
    made = User(home, marker, far_side.environment())
    yield made
    made.leave()
