"""Row 18: a job of 1,000 ranks in a real browser: the list that it is a line of, and its page with both heat maps.

The runs are simulated in the server's database, as the list knows them: neither page asks S3 for anything.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import uvicorn

from benchmarks.reading import RANKS, fill
from benchmarks.table import Figure, Measured
from benchmarks.world import World
from streaming.server.api.app import close_app, create_app
from streaming.server.settings import ApiSettings, S3Settings
from streaming.server.storage.database import ServerDatabase

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")
JOB = "39"
TO_REACH_S = 2.0
IS_THERE = {
    "/": "document.querySelector('#rows .spark path') !== null",
    f"/job?id={JOB}": "!!document.body.dataset.ready",
}
NAMES = {
    "/": f"the list, a job of {RANKS:,} ranks as a line with its curve",
    f"/job?id={JOB}": f"the page of a job of {RANKS:,} ranks",
}


def measure_browser(world: World) -> Measured:
    """From the first click of a browser with an empty cache to the picture on the screen."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return Measured([], ["Row 18 is not measured: the package playwright is missing."])
    if not CHROMIUM.exists():
        return Measured([], [f"Row 18 is not measured: {CHROMIUM} is missing."])
    with _served(world.folder("browser")) as (url, token), sync_playwright() as playwright:
        environment = {"HOME": str(world.folder("browser-home")), "PATH": os.defpath}
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], env=environment
        )
        figures = []
        for path, name in NAMES.items():
            looks = [_look(browser, url, token, path) for _ in range(world.pick(7, 3))]
            figures.append(_figure(name, median(took for took, _ in looks), looks[0][1]))
        browser.close()
    figures[0] = figures[0].numbered("18")
    return Measured(
        figures, ["Row 18: Chromium with an empty cache for each look, beside the server on the same machine."]
    )


def _figure(name: str, took_s: float, wire_bytes: int) -> Figure:
    values = {"s": took_s, "bytes": wire_bytes}
    to_reach = f"at most {TO_REACH_S:g} s"
    return Figure(
        "",
        f"first picture of {name}",
        f"{took_s:.2f} s, {wire_bytes / 1000:.0f} kB",
        "",
        "",
        to_reach,
        took_s <= TO_REACH_S,
        values,
    )


def _look(browser: Browser, url: str, token: str, path: str) -> tuple[float, int]:
    """Seconds until the picture is there, and bytes over the wire."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    assert context.request.post(f"{url}/session", data={"token": token}).ok
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Network.enable")
    sizes: list[int] = []
    devtools.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    started = time.perf_counter()
    page.goto(url + path, wait_until="commit")
    # by polling: the page's policy forbids what playwright's own waiting evaluates
    while not page.evaluate(IS_THERE[path]):
        time.sleep(0.01)
    page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
    took = time.perf_counter() - started
    context.close()
    return took, sum(sizes)


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, str]]:
    """The server's API in this process, with one job of a thousand ranks and a few hundred runs beside it."""
    nowhere = S3Settings(
        bucket="rows",
        role_arn="arn:aws:iam::000000000000:role/x",
        access_key="x",
        secret_key="x",
        endpoint_url="http://127.0.0.1:9",
    )
    app: Any = create_app(ApiSettings(directory=str(folder), instance="bench", s3=nowhere))
    token = app.state.tokens.add("bench")
    database = ServerDatabase(folder / "server.db")
    fill(database, app.state.runs, 300)
    fill(database, app.state.runs, RANKS, job=JOB)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", token
        finally:
            server.should_exit = True
            thread.join()
            close_app(app)
