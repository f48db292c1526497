"""A whole server to attack, and the count of what was tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from streaming.server import EmbeddedServer, embedded
from tests.support.other_user import nobody, service_account, somebody
from tests.support.processes import Home

__all__ = ["nobody", "service_account", "somebody"]

Tried = Callable[[str, int], None]


@pytest.fixture(autouse=True)
def _own_home(home: Home) -> None:
    """Nothing of the surroundings reaches these tests."""


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Tell how many inputs of a group were tried: all are summed up at the end of the run."""

    def tell(group: str, count: int) -> None:
        record_property("attack", (group, count))

    return tell


@pytest.fixture(scope="session")
def whole_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """API process and SeaweedFS. Its directory lies where another user may not look, as everywhere."""
    with embedded(tmp_path_factory.mktemp("whole-server")) as server:
        yield server
