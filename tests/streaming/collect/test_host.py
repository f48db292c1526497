"""What machine and cloud it is: found out once until the next boot, and no delivery waits for a silent metadata service."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from spool import Spool
from streaming import config
from streaming.collect import host
from streaming.processes.runtime_folder import runtime_folder
from tests.support import plays
from tests.support.processes import Home, eventually


@pytest.fixture(autouse=True)
def machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has just booted: nothing is known of it, and this process has asked nothing."""
    runtime = home.path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(host, "_asked", None)


def undescribed(spool_dir: Path) -> Spool:
    return Spool.create(spool_dir, replace(plays.new_run(), host_info=None, cloud_info=None))


@contextmanager
def answering_for_ever() -> Iterator[str]:
    """A proxy that gives a byte of its answer now and then, so that no time-out of a read ends the wait for it."""
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            open_ones: list[socket.socket] = []
            while not is_over.is_set():
                with suppress(TimeoutError):
                    open_ones.append(listener.accept()[0])
                for connection in open_ones:
                    with suppress(OSError):
                        connection.send(b"H")
            for connection in open_ones:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            is_over.set()
            thread.join()


def test_delivery_does_not_wait_for_a_metadata_service_that_never_ends_its_answer(
    home: Home, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering_for_ever() as url, closing(undescribed(home.spool_dir)) as spool:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv(config.DISCOVER_CLOUD, "1")
        assert host.WAIT_S <= 1
        host.describe(spool)
        assert host.CLOUD not in host.recall(), "it came back while the question is open"
        eventually(lambda: host.HOST in host.recall(), 30, "what needs no network is known by itself")
        host.describe(spool)
        assert spool.run().host_info == host.recall()[host.HOST]
    eventually(lambda: host.CLOUD in host.recall(), 30, "the question goes on, for the runs to come")


def test_what_was_found_out_is_asked_for_again_only_after_the_next_boot(home: Home) -> None:
    host.main({"wants_cloud": False, "spool_path": None})
    known = host.recall()
    assert known[host.HOST]["host_hostname"]
    with closing(Spool.create(home.spool_dir, replace(plays.new_run(), host_info=None))) as spool:
        host.describe(spool)
        assert (spool.run().host_info, spool.run().cloud_info) == (known[host.HOST], {})
    assert host._asked is None, "nobody was asked"
    with runtime_folder() as folder:
        (kept,) = folder.glob("host-*.json")
        kept.rename(folder / "host-of-another-boot.json")
    assert host.recall() == {}


def test_what_was_given_is_never_asked_for(home: Home) -> None:
    with closing(Spool.create(home.spool_dir, replace(plays.new_run(), host_info={"host_id": "given"}))) as spool:
        host.describe(spool)
        assert spool.run().host_info == {"host_id": "given"}
    assert host._asked is None
    assert host.recall() == {}
