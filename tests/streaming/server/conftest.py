"""A service in this process in front of moto's S3 and STS (fast), and a whole server with the real SeaweedFS (slow)."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from moto.server import ThreadedMotoServer
from starlette.types import Receive, Scope, Send

from streaming.server import EmbeddedServer, embedded
from streaming.server.api.app import close_app, create_app
from streaming.server.api.bodies import BodyLimits
from streaming.server.settings import ApiSettings, S3Settings
from streaming.server.storage.objects import Bucket
from tests.support.processes import Home

LIMITS = BodyLimits(wire_bytes=200_000, plain_bytes=1_000_000)
BUCKET = "rows"


@dataclass
class Service:
    """The API on a port of its own, and a client that holds one token."""

    app: FastAPI
    url: str
    s3: S3Settings
    token: str
    http: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, *, token: str | None = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token or self.token}", **options.pop("headers", {})}
        return self.http.request(method, self.url + path, headers=headers, timeout=60, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        return self.call("POST", path, json=json, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def register(self, **metadata: Any) -> dict[str, Any]:
        answer = self.post("/runs", metadata)
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def put(self, run: dict[str, Any], name: str, content: bytes) -> str:
        """Store an object of the run (with the admin's keys) and return its URI."""
        uri = f"{run['upload_uri_prefix']}/{name}"
        with Bucket(self.s3) as store:
            store._client.put_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"), Body=content)
        return uri


@pytest.fixture(autouse=True)
def _own_home(home: Home) -> None:
    """Nothing of the surroundings reaches these tests."""


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto_url: str) -> S3Settings:
    settings = S3Settings(
        bucket=BUCKET,
        role_arn="arn:aws:iam::000000000000:role/uploader",
        access_key="AKIAADMIN",
        secret_key="secret",
        endpoint_url=moto_url,
    )
    with Bucket(settings) as store:
        store.ensure_bucket()
    return settings


class Stage:
    """One server for all tests, whose application each test brings along: starting servers takes most of the time."""

    def __init__(self) -> None:
        self.app: FastAPI | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._call,
                interface="asgi3",
                http="h11",
                ws="none",
                lifespan="off",
                log_level="error",
                server_header=False,
            )
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    made = Stage()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def service(tmp_path: Path, s3: S3Settings, stage: Stage) -> Iterator[Service]:
    directory = tmp_path / "server"
    directory.mkdir()
    stage.app = create_app(ApiSettings(directory=str(directory), instance="test", s3=s3), limits=LIMITS)
    with requests.Session() as http:
        yield Service(stage.app, stage.url, s3, stage.app.state.tokens.add("tester"), http)
    close_app(stage.app)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """API process and SeaweedFS, shared by the tests marked `weed`."""
    with embedded(tmp_path_factory.mktemp("real-server"), credential_lifetime_s=3) as server:
        yield server
