"""Fault 43: stores of every kind behind a server of ours. Each case is one real store, its own processes and all.

What can differ: STS or none, session policies enforced or not, checksums, conditional PUTs, words of refusal.
"""

import contextlib
import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from spool import Batch, NewRun, Spool
from streaming.errors import NotTheService, SegmentRefused, StreamError, Unreachable
from streaming.server import EmbeddedServer
from streaming.server.process.embedded import embedded
from streaming.server.storage.objects import Bucket
from streaming.upload import delivery
from tests.support import stores
from tests.support.clients import Clients
from tests.support.gate import Gate
from tests.support.processes import Home
from tests.support.recorded import HEADER, rows
from tests.support.runs import dead_tracker
from tests.support.stores import Store

STORES: dict[str, Callable[[Path], "contextlib.AbstractContextManager[Store]"]] = {
    "SeaweedFS": stores.seaweedfs,
    "moto": stores.moto,
    "rclone": stores.rclone,
    "ministack": stores.ministack,
    "Ceph RGW": stores.rgw,
}
MARKS = {"SeaweedFS": pytest.mark.weed, "Ceph RGW": pytest.mark.rgw}
pytestmark = pytest.mark.timeout(300)  # Ceph alone takes its time to begin

BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)


@dataclass
class Place:
    """A server of ours in front of the store, and a way to the store that can lose its replies."""

    store: Store
    server: EmbeddedServer
    gate: Gate

    def connect(self) -> Clients:
        return Clients.connect(self.server.token, api_url=self.server.api_url, s3_endpoint_url=self.gate.url)

    @contextlib.contextmanager
    def registered(self) -> Iterator[tuple[Clients, str, str]]:
        """Clients, the id of a new run, and its prefix."""
        clients = self.connect()
        registration, credentials = clients.service.register({}, idempotency_key=str(id(clients)))
        clients.store.keep(registration.run_id, credentials)
        yield clients, registration.run_id, registration.upload_uri_prefix
        clients.reset()


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.xdist_group(name), *([MARKS[name]] if name in MARKS else [])])
        for name in STORES
    ],
)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, surroundings: None
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("store")
    with STORES[request.param](folder) as store, embedded(folder / "server", s3=store.settings) as server:
        assert server.s3_endpoint_url is not None
        with Gate(server.s3_endpoint_url) as gate:
            yield Place(store, server, gate)


@pytest.fixture(autouse=True)
def _own_home(home: Home) -> None:
    """Nothing of the surroundings reaches these tests."""


def test_fault_43_a_run_of_several_objects_arrives_whole(place: Place, home: Home) -> None:
    batches = [rows(number * 50, 50) for number in range(4)]
    spool = recorded(home, place, batches)
    clients = place.connect()
    with closing(spool):
        for _ in range(2):  # the second finds nothing to do
            assert delivery.deliver(spool, clients.service, clients.store) is delivery.Progress.COMPLETE
        run_id = spool.run().registration.run_id
    clients.reset()
    run = place.server.run(run_id)
    held = dict(place.server.read_objects(run_id))
    keys = [uri.removeprefix(f"s3://{place.server.bucket}/") for uri in run.data_uris]
    assert [gzip.decompress(held[key]) for key in keys] == [HEADER + batch for batch in batches]
    assert (run.run_status, run.exit_code, len(held)) == ("finished", 0, len(batches))


def recorded(home: Home, place: Place, batches: list[bytes]) -> Spool:
    new = NewRun(
        tracker=dead_tracker(),
        started_at=1_700_000_000.0,
        token=place.server.token,
        metadata={"job_name": "stores", "tags": {"kind": "any"}},
        host_info={},
        cloud_info={},
        api_url=place.server.api_url,
        s3_endpoint_url=place.gate.url,
    )
    spool = Spool.create(home.spool_dir, new)
    for batch in batches:
        spool.append([Batch(HEADER, batch)])
        list(spool.seal_pending())
    spool.end(exit_code=0, run_status="finished", ended_at=1_700_000_060.0)
    return spool


def test_fault_43_the_same_object_again_is_harmless_also_from_another_process(place: Place) -> None:
    with place.registered() as (clients, run_id, prefix):
        uri = f"{prefix}/00000001-abc.csv.gz"
        first = clients.store.put(run_id, uri, BODY)
        assert clients.store.put(run_id, uri, BODY) == first
        other = place.connect()
        assert other.store.put(run_id, uri, BODY) == first
        other.reset()
        assert [content for _, content in place.server.read_objects(run_id)] == [BODY]


def test_fault_43_a_lost_reply_is_repaired_by_the_same_bytes(place: Place) -> None:
    with place.registered() as (clients, run_id, prefix):
        clients.store.put(run_id, f"{prefix}/00000001-abc.csv.gz", BODY)
        uri = f"{prefix}/00000002-def.csv.gz"
        place.gate.replies_to_lose = 1
        with pytest.raises(Unreachable):
            clients.store.put(run_id, uri, BODY)
        assert clients.store.put(run_id, uri, BODY).uri == uri
        assert [content for _, content in place.server.read_objects(run_id)] == [BODY, BODY]


def test_fault_43_a_store_that_is_killed_and_restarted_takes_the_rest(place: Place) -> None:
    kill, start = place.store.kill, place.store.start
    if place.store.settings is None:
        kill, start = place.server.stop_s3, place.server.start_s3
    if kill is None or start is None:
        pytest.skip("it forgets everything when it ends")
    with place.registered() as (clients, run_id, prefix):
        clients.store.put(run_id, f"{prefix}/00000001-abc.csv.gz", BODY)
        kill()
        try:
            with pytest.raises(StreamError) as met:
                clients.store.put(run_id, f"{prefix}/00000002-def.csv.gz", BODY)
        finally:
            start()
        assert isinstance(met.value, Unreachable)
        clients.store.put(run_id, f"{prefix}/00000002-def.csv.gz", BODY)
        assert len(place.server.read_objects(run_id)) == 2


def test_fault_43_refusals_are_named(place: Place) -> None:
    with place.registered() as (clients, run_id, prefix):
        bucket = "no-such-bucket-here"
        with pytest.raises(StreamError) as met:
            clients.store.put(run_id, f"s3://{bucket}/{prefix.partition('//')[2]}/1.csv.gz", BODY)
        assert isinstance(met.value, (SegmentRefused, NotTheService))
        assert "NoSuchBucket" in str(met.value) or "AccessDenied" in str(met.value)
        assert met.value.hint
        wrong = replace(clients.service.refresh(run_id), secret_key="wrong")
        clients.store.keep(run_id, wrong)
        if place.store.enforces:  # the refused keys are replaced, at once
            clients.store.put(run_id, f"{prefix}/00000001-abc.csv.gz", BODY)


def test_fault_43_credentials_are_for_one_prefix_where_the_store_enforces_it(place: Place) -> None:
    if not place.store.enforces:
        pytest.skip("this store looks at no session policy")
    with place.registered() as (clients, run_id, prefix):
        with pytest.raises(NotTheService, match="AccessDenied"):
            clients.store.put(run_id, f"{prefix}-of-another/00000001-abc.csv.gz", BODY)
        with Bucket(place.server.settings.s3) as store:
            assert list(store.list("runs/" + f"{run_id}-of-another")) == []
