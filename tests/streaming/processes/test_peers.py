"""Whose a socket of this machine is: sock_diag says what the table says, for every kind of address."""

import os
import socket
import threading
from contextlib import closing

import pytest

from streaming.processes import peers

KINDS = {"v4": ("127.0.0.1", "127.0.0.1"), "v6": ("::1", "::1"), "any": ("0.0.0.0", "127.0.0.1")} | {
    "both": ("::", "127.0.0.1")
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_name_the_user_of_a_listener_and_of_its_client(kind: str) -> None:
    host, to = KINDS[kind]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.create_server((host, 0), family=family, dualstack_ipv6=kind == "both")) as listener:
        port = listener.getsockname()[1]
        with closing(socket.create_connection((to, port))) as client, closing(listener.accept()[0]) as accepted:
            assert peers.uids_listening(port, to) == {os.getuid()}
            assert peers.uids_listening(port, "192.0.2.1") == (set() if host in ("127.0.0.1", "::1") else {os.getuid()})
            ends = (client.getsockname()[:2], accepted.getsockname()[:2])
            assert peers.uid_of_client(*ends) == os.getuid()
            if not list(peers._asked_for_listeners(port)):
                pytest.skip("no sock_diag here: the table alone was asked")
            asked = [peers._asked(*map(peers._plain, ends)), peers._asked_for_listeners(port)]
            of_port = {each for answer in asked for each in answer if port in (each.local[1], each.remote[1])}
            assert of_port <= set(peers._sockets())
            assert len(of_port) == 2
    assert peers.uids_listening(port, to) == set()


def test_kernel_tells_of_the_port_that_it_was_asked_for_and_of_no_other() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as wanted, closing(socket.create_server(("127.0.0.1", 0))):
        port = wanted.getsockname()[1]
        assert {each.local[1] for each in peers._asked_for_listeners(port)} <= {port}


@pytest.mark.parametrize("ask", ["sock_diag", "the table"])
def test_a_connection_that_was_sent_and_closed_is_nobodys(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says root's of a socket that no program has any more: a request could be sent in root's name so."""
    if ask == "the table":
        monkeypatch.setattr(peers, "_ask", lambda *_: iter(()))
        monkeypatch.setattr(peers, "_sock_diag_works", threading.Event())
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        with closing(listener.accept()[0]) as accepted:
            ends = (client.getsockname(), accepted.getsockname())
            client.shutdown(socket.SHUT_WR)
            assert peers.uid_of_client(*ends) == os.getuid()
            client.close()
            assert peers.uid_of_client(*ends) is None
