"""A tenant with a token: their requests may fill their own share of the server, and no more."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from streaming.server.api.admission import Admission, Share
from streaming.server.api.app import close_app, create_app
from streaming.server.api.guarded_route import ViewedRoute
from streaming.server.settings import ApiSettings, S3Settings
from tests.security.conftest import Tried

GREEDY = 45


class Slow:
    """Calls that take as long as the test wants: what a tenant's own expensive runs do to them."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.router = APIRouter(route_class=ViewedRoute)
        self.router.get("/slow")(self.compute)
        self.router.get("/stream")(self.stream)

    def compute(self) -> str:
        self.may_end.wait(60)
        return "done"

    def stream(self) -> StreamingResponse:
        def rows() -> Iterator[str]:
            yield "first"
            self.may_end.wait(60)
            yield "last"

        return StreamingResponse(rows())


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def app(tmp_path: Path, slow: Slow) -> Iterator[FastAPI]:
    nowhere = S3Settings("rows", "arn", "AK", "secret", endpoint_url="http://127.0.0.1:9")
    made = create_app(ApiSettings(str(tmp_path), "test", nowhere), share=Share(at_once=4, in_line=20, wait_s=1.0))
    made.include_router(slow.router)
    yield made
    slow.may_end.set()
    close_app(made)


@pytest.fixture
def url(app: FastAPI, slow: Slow) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    slow.may_end.set()
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_one_tenants_flood_is_refused_in_words_and_another_is_served_at_once(
    app: FastAPI, url: str, slow: Slow, path: str, tried: Tried
) -> None:
    greedy, other = (_bearer(app.state.tokens.add(name)) for name in ("greedy", "other"))
    with ThreadPoolExecutor(GREEDY) as pool:
        flood = [pool.submit(requests.get, url + path, headers=greedy, timeout=60) for _ in range(GREEDY)]
        refused = [answer for answer in _answered(flood, GREEDY - 4) if answer.status_code == 429]
        page = requests.get(f"{url}/runs", headers=other, timeout=60)  # the flood ends after it
        own = requests.post(f"{url}/runs/x/refresh-credentials", headers=greedy, timeout=60)
        slow.may_end.set()
        served = [answer.result() for answer in flood if answer.result().status_code == 200]
    assert page.status_code == 200
    assert own.status_code == 404, "the tenant's own uploaders are not held up by what it looks at"
    assert len(served) == 4
    assert len(refused) == GREEDY - 4
    assert all("requests in hand" in answer.json()["detail"] for answer in refused)
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    tried("requests of one tenant at once", GREEDY)


def test_nothing_is_kept_of_tenants_that_have_gone(app: FastAPI, url: str) -> None:
    for number in range(5):
        headers = _bearer(app.state.tokens.add(f"tenant {number}"))
        assert requests.get(f"{url}/runs", headers=headers, timeout=60).ok
    admission: Admission = app.state.admission
    deadline = time.monotonic() + 20
    while admission.callers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert admission.callers == 0


def _answered(flood: list[Future[requests.Response]], count: int) -> list[requests.Response]:
    """The first answers, once there are so many."""
    deadline = time.monotonic() + 60
    while sum(answer.done() for answer in flood) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [answer.result() for answer in flood if answer.done()]


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
