"""Stores of other makers, each a real server on loopback, as one that a server of ours could be told to use."""

import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streaming.server.settings import S3Settings
from tests.support import ceph
from tests.support.processes import ROOT

START_S = 60.0
ROLE = "arn:aws:iam::000000000000:role/uploader"


@dataclass(frozen=True)
class Store:
    """`kill` and `start`: where it is a process that finds its objects again. `enforces`: credentials are for one prefix."""

    settings: S3Settings | None  # None: the SeaweedFS that comes with the server
    enforces: bool = False
    kill: Callable[[], None] | None = None
    start: Callable[[], None] | None = None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def seaweedfs(_folder: Path) -> Iterator[Store]:
    yield Store(None, enforces=True)


@contextmanager
def moto(_folder: Path) -> Iterator[Store]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Store(S3Settings("rows", ROLE, "AKIAADMIN", "secret", f"http://{host}:{port}"))
    server.stop()


@contextmanager
def rclone(folder: Path) -> Iterator[Store]:
    """`rclone serve s3`: files in a folder, one pair of keys, no STS."""
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone is not installed in this environment")
    (folder / "objects" / "rows").mkdir(parents=True)
    port = free_port()
    command = [
        str(program),
        "serve",
        "s3",
        "--config",
        str(folder / "rclone.conf"),
        "--auth-key",
        "RCLONE,rclone-secret",
    ]
    with _Served([*command, "--addr", f"127.0.0.1:{port}", str(folder / "objects")], port) as served:
        settings = S3Settings("rows", "", "RCLONE", "rclone-secret", f"http://127.0.0.1:{port}", hands_out_keys=True)
        yield Store(settings, kill=served.kill, start=served.start)


@contextmanager
def ministack(_folder: Path) -> Iterator[Store]:
    """In an environment of its own: it demands another botocore than ours."""
    program = ROOT / ".venv" / "ministack" / "bin" / "ministack"
    if not program.exists():
        pytest.skip("ministack is not installed (scripts/test does)")
    port = free_port()
    alone = ("BIND_HOST=127.0.0.1", "SFTP_ENABLED=0", "IOT_MTLS_ENABLED=0")
    with _Served(["env", f"GATEWAY_PORT={port}", *alone, str(program)], port):
        yield Store(S3Settings("rows", ROLE, "AKIAADMIN", "secret", f"http://127.0.0.1:{port}"))


@contextmanager
def rgw(folder: Path) -> Iterator[Store]:
    if absent := ceph.missing():
        pytest.skip(f"{', '.join(absent)} not installed")
    with ceph.gateway(folder, port=free_port(), mon_port=free_port()) as made:
        settings = S3Settings("rows", made.role_arn, made.access_key, made.secret_key, made.url)
        yield Store(settings, enforces=True, kill=made.kill, start=made.start)


class _Served:
    """A server program, started until its port takes connections."""

    def __init__(self, command: list[str], port: int) -> None:
        self._command = command
        self._port = port
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Served":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        null = subprocess.DEVNULL
        self._popen = subprocess.Popen(self._command, stdin=null, stdout=null, stderr=null)
        deadline = time.monotonic() + START_S
        while not self._listens():
            assert self._popen.poll() is None, f"{shutil.which(self._command[0])} ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None
