"""Our two clients, open to the far end."""

from collections.abc import Iterator

import pytest

from streaming.clients.sentinel import SentinelApi
from tests.streaming.clients.doors import Door
from tests.support.far_end import FarEnd


@pytest.fixture
def api(far_end: FarEnd) -> Iterator[SentinelApi]:
    made = SentinelApi(far_end.token, base_url=far_end.api_url, deadline_s=10, read_timeout_s=5)
    yield made
    made.reset()


@pytest.fixture
def door(far_end: FarEnd) -> Iterator[Door]:
    made = Door(far_end)
    yield made
    made.clients.reset()
