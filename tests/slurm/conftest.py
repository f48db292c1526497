"""Clusters for the tests of this folder: one for each way in which SLURM tracks processes, started when first asked for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.streaming.server.conftest import moto_url, s3, service, stage  # noqa: F401 - fixtures
from tests.support.slurm_cluster import PROCTRACKS, Cluster, User, why_impossible

GetCluster = Callable[[str], Cluster]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of the real SLURM carry its marker; those of a file run in one worker, and share its clusters."""
    for item in items:
        if "tests/slurm/" in item.path.as_posix():
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.xdist_group(f"slurm-{item.path.stem}"))


@pytest.fixture(scope="session")
def clusters() -> Iterator[GetCluster]:
    """A running cluster by the name of its proctrack plugin."""
    if reason := why_impossible():
        pytest.skip(reason)
    running: dict[str, Cluster] = {}
    with ExitStack() as stack:

        def get(proctrack: str) -> Cluster:
            if proctrack not in running:
                running[proctrack] = stack.enter_context(Cluster(proctrack))
            return running[proctrack]

        yield get


@pytest.fixture
def user(clusters: GetCluster, marker: str) -> User:
    """A user of the usual cluster, which finds a job's processes by their cgroup."""
    return clusters("cgroup").user(marker)


@pytest.fixture(params=PROCTRACKS)
def user_anywhere(request: pytest.FixtureRequest, clusters: GetCluster, marker: str) -> User:
    """A user of each kind of cluster in turn."""
    return clusters(request.param).user(marker)
