"""Another user of the machine: every port and socket of ours, every verb, and what can be planted in /tmp."""

from __future__ import annotations

import json
import mmap
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.s3 import ObjectStore
from streaming.clients.sentinel import SentinelApi
from streaming.errors import NotTheService, Unreachable
from streaming.server import EmbeddedServer
from streaming.server.process.ports import free_port
from streaming.server.process.seaweedfs import find_weed
from tests.security.conftest import Tried
from tests.support.certificates import self_signed
from tests.support.listening import Listening, listening
from tests.support.other_user import Nobody

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("whole-server")]

INTRUDER = Path(__file__).with_name("intruder.py")
VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
PATHS = [
    "/",
    "/ui/index.html",
    "/dir/assign",
    "/dir/assign?count=5&collection=tracker-stream",
    "/dir/lookup?volumeId=1&fileId=1,0100000000&read=yes",
    "/dir/lookup?volumeId=1&fileId=1,0100000000",
    "/dir/status",
    "/col/delete?collection=tracker-stream",
    "/collection/info?collection=tracker-stream&detail=true",
    "/vol/grow?count=1&collection=x",
    "/vol/status",
    "/vol/vacuum?garbageThreshold=0.0001",
    "/submit",
    "/cluster/status",
    "/cluster/healthz",
    "/raft/stats",
    "/metrics",
    "/healthz",
    "/status",
    "/stats/counter",
    "/1,0100000000",
    "/buckets/",
    "/buckets/tracker-stream/?recursive=true&ignoreRecursiveError=true",
    "/debug/pprof/heap",
]
_METHOD = re.compile(rb"/(?:master_pb|volume_server_pb|filer_pb|iam_pb|s3_pb|protobuf|raft)\.[A-Z]\w+/[A-Z]\w+")


@pytest.fixture
def stored(whole_server: EmbeddedServer) -> Iterator[str]:
    """An object of some tenant; whatever is tried, it is there afterwards."""
    with requests.Session() as http:
        answer = http.post(f"{whole_server.api_url}/runs", json={}, headers=_bearer(whole_server), timeout=60)
    prefix = answer.json()["upload_uri_prefix"]
    _put(whole_server, prefix, b"rows")
    yield prefix
    assert [content for _, content in whole_server.read_objects(prefix)] == [b"rows"]


def test_nothing_of_ours_but_s3_and_the_api_answers_anybody(
    whole_server: EmbeddedServer, stored: str, nobody: Nobody, tried: Tried
) -> None:
    ours = ours_of(whole_server)
    open_to_all = {whole_server.settings.port, int((whole_server.s3_endpoint_url or "").rpartition(":")[2])}
    assert open_to_all < ours.ports
    assert len(ours.ports) == 9
    assert len(ours.sockets) == 6
    plan = {
        "ports": sorted(ours.ports - open_to_all),
        "sockets": [_absolute(whole_server, path) for path in ours.sockets],
        "verbs": VERBS,
        "paths": PATHS,
        "methods": _grpc_methods(),
        "certificate": _certificate(nobody),
    }
    report = _intrude(nobody, plan)
    tried("SeaweedFS's own ports and sockets, as another user", report["tried"])
    assert report["tried"] > 3000
    assert report["found"] == []


def test_the_intruder_would_notice_an_open_port(nobody: Nobody, whole_server: EmbeddedServer) -> None:
    """The test above proves something only if an answer is seen as one: S3's port and the API's do answer."""
    ports = [whole_server.settings.port, int((whole_server.s3_endpoint_url or "").rpartition(":")[2])]
    nothing: list[str] = []
    plan = {"ports": ports, "verbs": ["GET"], "paths": ["/"], "methods": nothing, "sockets": nothing}
    found = _intrude(nobody, {**plan, "certificate": _certificate(nobody)})["found"]
    assert {int(entry.split()[0]) for entry in found} == set(ports)


VICTIM = """
import sys
sys.executable = sys.argv[2]
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.s3 import ObjectStore
from streaming.clients.sentinel import SentinelApi
from streaming.errors import NotTheService, Unreachable
from streaming.server import EmbeddedServer
from streaming.server.process.ports import free_port
server = EmbeddedServer(sys.argv[1])
try:
    server.start_s3()
    print(*(path for path in server.s3_process.unlink if path.startswith("/tmp/seaweedfs")), flush=True)
    server.stop_s3()
    print("stopped", flush=True)
    sys.stdin.readline()
    server.start_s3()
    print("objects:", len(server.read_objects()), flush=True)
finally:
    server.stop()
"""
PLANTER = """
import os, selectors, socket, sys
os.umask(0)
heard, watch = 0, selectors.DefaultSelector()
watch.register(sys.stdin, selectors.EVENT_READ)
for path in sys.argv[1:]:
    planted = socket.socket(socket.AF_UNIX)
    planted.bind(path)
    planted.listen()
    watch.register(planted, selectors.EVENT_READ)
print("planted", flush=True)
done = False
while not done:
    for key, _ in watch.select():
        if key.fileobj is sys.stdin:
            done = True
        else:
            key.fileobj.accept()
            heard += 1
for path in sys.argv[1:]:
    os.unlink(path)
print("heard", heard, flush=True)
"""


def test_a_planted_socket_neither_hears_a_call_nor_keeps_the_server_down(
    nobody: Nobody, somebody: Nobody, tried: Tried
) -> None:
    """weed puts sockets into /tmp, named after its ports: those of the last start are planted before the next one."""
    python = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"  # ours may lie in root's home
    if not Path(python).exists():
        pytest.skip(f"another user needs {python} to start processes")
    with somebody.start_python(VICTIM, str(somebody.home.path / "server"), python) as victim:
        names = victim.read_line().split()
        assert victim.read_line() == "stopped", victim.wait(60).stderr.decode()
        assert len(names) == 4
        with nobody.start_python(PLANTER, *names) as planter:
            assert planter.read_line() == "planted"
            victim.say("start again")
            assert victim.read_line() == "objects: 0"
            planter.say("enough")
            assert planter.read_line() == "heard 0"
        victim.wait(60).check_unfelt()
    tried("sockets planted in /tmp", len(names))


EAR = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
sys.stdin.readline()
listener.settimeout(0)
heard = b""
try:
    while True:
        connection = listener.accept()[0]
        connection.settimeout(5)
        heard += connection.recv(65536)
        connection.close()
except BlockingIOError:
    print("heard", heard, flush=True)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_whoever_takes_the_servers_port_while_it_is_down_gets_no_token(
    nobody: Nobody, monkeypatch: pytest.MonkeyPatch, host: str, tried: Tried
) -> None:
    port = free_port()
    api = SentinelApi("a-token-of-some-length", base_url=f"http://{host}:{port}", deadline_s=1)
    with nobody.start_python(EAR, str(port)) as thief:
        assert thief.read_line() == "listens"
        for call in (
            api.check,
            api.check_token,
            lambda: api.register({}, idempotency_key="k"),
            lambda: api.refresh("x"),
        ):
            with pytest.raises(NotTheService, match="another user of this machine listens, nobody"):
                call()
        thief.say("what was heard?")
        assert thief.read_line() == "heard b''"
        monkeypatch.setenv("TRACKER_STREAM_SERVER_USER", "nobody")
        with pytest.raises(Unreachable):  # it is spoken to, and does not answer
            api.check()
    tried("listeners on the server's port", 2)


def test_whoever_takes_the_stores_port_while_it_is_down_gets_no_rows(nobody: Nobody, tried: Tried) -> None:
    port = free_port()
    keys = Credentials("access", "secret", "session", None, "us-east-1")
    store = ObjectStore(CredentialKeeper(lambda _run_id: keys), endpoint_url=f"http://127.0.0.1:{port}", deadline_s=1)
    with nobody.start_python(EAR, str(port)) as thief:
        assert thief.read_line() == "listens"
        with pytest.raises(NotTheService, match="another user of this machine listens, nobody"):
            store.put("run", "s3://bucket/runs/1/00000001-abc.csv.gz", b"rows")
        thief.say("what was heard?")
        assert thief.read_line() == "heard b''"
    store.reset()
    tried("listeners on the store's port", 1)


def test_service_account_that_takes_the_servers_port_gets_no_token(service_account: Nobody, tried: Tried) -> None:
    """Whoever breaks into a web server of this machine has its account."""
    port = free_port()
    api = SentinelApi("a-token-of-some-length", base_url=f"http://127.0.0.1:{port}", deadline_s=1)
    with service_account.start_python(EAR, str(port)) as thief:
        assert thief.read_line() == "listens"
        with pytest.raises(NotTheService, match="another user of this machine listens"):
            api.check()
        thief.say("what was heard?")
        assert thief.read_line() == "heard b''"
    tried("listeners on the server's port", 1)


def test_no_socket_of_the_server_is_anybody_elses_to_use(whole_server: EmbeddedServer) -> None:
    sockets = [Path(_absolute(whole_server, name)) for name in ours_of(whole_server).sockets]
    for path in [whole_server.directory.path, whole_server.directory.seaweedfs, *sockets]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_no_process_of_the_server_may_dump_core(whole_server: EmbeddedServer) -> None:
    assert whole_server.api_process is not None
    assert whole_server.s3_process is not None
    for process in (whole_server.api_process, whole_server.s3_process):
        for pid in (process.guard.pid, process.command.pid):
            limits = Path(f"/proc/{pid}/limits").read_text()
            allowed = re.search(r"Max core file size +(\S+) +(\S+)", limits)
            assert allowed is not None
            assert set(allowed.groups()) <= {"0", "1"}


def ours_of(server: EmbeddedServer) -> Listening:
    processes = [process for process in (server.api_process, server.s3_process) if process]
    return listening(pid for process in processes for pid in (process.guard.pid, process.command.pid))


def _absolute(server: EmbeddedServer, name: str) -> str:
    return str(server.directory.seaweedfs / name)


def _grpc_methods() -> list[str]:
    """Every call of every service, from the names in the program itself."""
    with open(find_weed(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sorted({match.group().decode() for match in _METHOD.finditer(content)})


def _certificate(nobody: Nobody) -> str:
    path = nobody.home.path / "own.pem"
    path.write_bytes(self_signed("127.0.0.1"))
    nobody.owns(path)
    return str(path)


def _intrude(nobody: Nobody, plan: dict[str, Any]) -> dict[str, Any]:
    done = nobody.run_python(INTRUDER.read_text(), stdin=json.dumps(plan))
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _bearer(server: EmbeddedServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token}"}


def _put(server: EmbeddedServer, prefix: str, content: bytes) -> None:
    from streaming.server.storage.objects import Bucket

    key = f"{prefix.removeprefix(f's3://{server.bucket}/')}/0001.csv.gz"
    with Bucket(server.settings.s3) as store:
        store._client.put_object(Bucket=server.bucket, Key=key, Body=content)
