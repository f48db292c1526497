"""`tracker-stream server up`: what it refuses at once, remembers and tries, and what is left when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from streaming.server.process.ports import free_port
from tests.support import processes
from tests.support.processes import ROOT

Command = Callable[..., "subprocess.CompletedProcess[str]"]
SERVER = [sys.executable, "-m", "streaming", "server"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def server(directory: Path, monkeypatch: pytest.MonkeyPatch, marker: str) -> Iterator[Command]:
    """One command, in an environment with the keys of another S3. Nothing of it may be left running after `down`."""
    monkeypatch.setenv("TRACKER_STREAM_SERVER_DIR", str(directory))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAADMIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-key")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*SERVER, *arguments], capture_output=True, text=True, timeout=100, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    yield run
    run("down")


@pytest.fixture
def up(server: Command, moto_url: str) -> Command:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return server("up", "--s3-endpoint", moto_url, "--s3-bucket", "up-bucket", *options)

    return run


def url_of(server: Command) -> str:
    return str(json.loads(server("status", "--json").stdout)["api_url"])


def test_it_comes_back_on_the_port_where_it_was(server: Command, up: Command) -> None:
    port = free_port()
    assert up("--port", str(port)).returncode == 0
    server("down")
    assert up().returncode == 0
    assert url_of(server) == f"http://127.0.0.1:{port}"


def test_a_port_that_is_taken_is_given_way_to_or_said(server: Command, up: Command) -> None:
    port = free_port()
    assert up("--port", str(port)).returncode == 0
    server("down")
    with socket.create_server(("127.0.0.1", port)):
        asked = up("--port", str(port))
        other = up()
        found = url_of(server)
    assert asked.returncode == 1
    assert f"Port {port} is taken by " in asked.stderr
    assert other.returncode == 0
    assert found != f"http://127.0.0.1:{port}"
    assert f"Port {port}, where this server was before, is taken" in other.stderr


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\xff", b'{"api": 1}'], ids=repr)
def test_files_that_a_power_loss_emptied_are_made_anew(
    server: Command, up: Command, directory: Path, content: bytes
) -> None:
    directory.mkdir(mode=0o700)
    for name in ("token", "state.json", "port.json"):
        (directory / name).write_bytes(content)
    assert up("--port", "0").returncode == 0
    registered(server)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--s3-bucket", "my_bucket"], "no _"),
        (["--s3-bucket", "ab"], "3 to 63"),
        (["--s3-endpoint", "http://vm:9007"], "https://"),
        (["--s3-endpoint", "localhost:9000"], "https://"),
        (["--s3-endpoint", "ftp://127.0.0.1"], "https://"),
        (["--s3-bucket", "good", "--s3-region", "us east"], "not a region"),
        (["--s3-credentials", "static"], "--s3-endpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_every_client_would_refuse_later_is_refused_at_once(
    server: Command, directory: Path, options: list[str], says: str
) -> None:
    done = server("up", "--port", "0", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (directory / "state.json").exists()


ENTRY = (
    "<Contents><Key>{}</Key><Size>1</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
)


@pytest.mark.parametrize("host", ["nonsense.invalid", "192.0.2.1", "::2"])
def test_an_address_that_is_not_this_machines_is_said_at_once(server: Command, host: str) -> None:
    done = server("up", "--host", host)
    assert done.returncode == 1
    assert f"{host} is not an address of this machine" in done.stderr


class _WithoutSts(BaseHTTPRequestHandler):
    """An S3 in memory that knows objects and nothing else: STS is answered 501, as by many stores."""

    objects: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "list-type" in query:
            keys = [key.split("/", 2)[2] for key in self.objects]
            self._answer(200, f"<ListBucketResult>{''.join(map(ENTRY.format, keys))}</ListBucketResult>".encode())
        else:
            self._answer(200 if path in self.objects else 404, self.objects.get(path, b""))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.objects[self.path.partition("?")[0]] = body
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(501, b"<Error><Code>NotImplemented</Code><Message>no STS here</Message></Error>")

    def do_DELETE(self) -> None:
        self._answer(204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def without_sts() -> Iterator[str]:
    _WithoutSts.objects = {}
    far = ThreadingHTTPServer(("127.0.0.1", 0), _WithoutSts)
    thread = Thread(target=far.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{far.server_port}"
    far.shutdown()
    thread.join(20)
    far.server_close()


def test_a_store_without_sts_is_said_at_once_and_works_with_static_keys(server: Command, without_sts: str) -> None:
    store = ("--port", "0", "--s3-endpoint", without_sts, "--s3-bucket", "rows")
    refused = server("up", *store)
    assert refused.returncode == 1
    assert "gives no upload credentials" in refused.stderr
    assert "--s3-credentials static" in refused.stderr
    accepted = server("up", *store, "--s3-credentials", "static")
    assert accepted.returncode == 0, accepted.stderr
    assert "the very keys that you gave" in accepted.stderr
    given = registered(server)["upload_credentials"]
    assert (given["access_key"], given["secret_key"]) == ("AKIAADMIN", "another-secret-key")


def test_a_store_that_lets_uploaders_write_anywhere_is_said(up: Command) -> None:
    done = up("--port", "0")
    assert done.returncode == 0
    assert "does not enforce session policies" in done.stderr, "moto does not"


def registered(server: Command) -> dict[str, dict[str, str]]:
    environment = json.loads(server("env", "--json").stdout)
    token = Path(environment["SENTINEL_API_TOKEN_FILE"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.post(f"{environment['SENTINEL_API_URL']}/runs", json={}, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    found: dict[str, dict[str, str]] = answer.json()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=["TERM", "KILL", "INT"])
def test_killed_in_the_middle_nothing_is_left(
    server: Command, directory: Path, marker: str, without_sts: str, number: signal.Signals
) -> None:
    """The API is started, and the directory is held up at the point where what runs would be written down."""
    directory.mkdir(mode=0o700)
    (directory / "state.json").mkdir()  # cannot be replaced by a file
    options = ("--port", "0", "--s3-endpoint", without_sts, "--s3-bucket", "rows", "--s3-credentials", "static")
    with subprocess.Popen([*SERVER, "up", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as starting:
        wait_for_api(directory)
        starting.send_signal(number)
        starting.communicate(timeout=60)
    processes.wait_gone(marker)


def wait_for_api(directory: Path) -> None:
    deadline = time.monotonic() + 60
    while not (directory / "api.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_disk_is_said_as_one(server: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        (small / "filler").write_bytes(b"x" * 1_000_000)
        done = server("up", "--dir", str(small / "server"), "--port", "0")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 1
    assert re.search("No space left on device|disk is full", done.stderr), "as the system or SQLite say it"


def test_the_link_logs_its_user_in_once_and_open_makes_another(
    server: Command, up: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" >> "$0.opened"\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", str(browser))
    first = link_in(up("--port", "0").stdout)
    second = link_in(server("open").stdout)
    assert first != second
    assert wait_for_file(Path(f"{browser}.opened")).split() == [second]
    for link in (first, second):
        url, _, ticket = link.partition("/login#ticket=")
        with requests.Session() as http:
            assert http.post(f"{url}/session", json={"ticket": ticket}, timeout=60).json() == {"name": "default"}
            assert http.get(f"{url}/runs", timeout=60).status_code == 200
        assert requests.post(f"{url}/session", json={"ticket": ticket}, timeout=60).status_code == 401
        cookie = {"Cookie": f"tracker_stream_session_{url.rpartition(':')[2]}={ticket}"}
        assert requests.get(f"{url}/runs", headers=cookie, timeout=60).status_code == 401


def link_in(text: str) -> str:
    return next(word for word in text.split() if "#ticket=" in word)


def wait_for_file(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()
