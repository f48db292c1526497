"""A real browser (Debian's Chromium, driven by Playwright) in front of the service of the server's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.streaming.server.conftest import Service
from tests.streaming.server.web.runs import Runs
from tests.streaming.server.web.tab import Tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--in-process-gpu",
    "--renderer-process-limit=1",
    "--no-zygote",
    "--disable-extensions",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
]


@contextmanager
def launched(home: Path) -> Iterator[Browser]:
    """A browser, gone with the block."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: install Debian's package chromium (scripts/test does, as root)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright of the extra dev is missing")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TZ": "UTC"}
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # not longer: other tests of this process look for children that were left behind
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with launched(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def open_tab(chromium: Browser, service: Service) -> Iterator[Callable[..., Tab]]:
    """Opens tabs that are logged in (unless told otherwise); at the end none may have had an error."""
    tabs: list[Tab] = []

    def make(*, width: int = 1400, height: int = 900, scheme: str = "light", log_in: bool = True) -> Tab:
        tabs.append(Tab.open(chromium, service.url, width=width, height=height, scheme=scheme))
        if log_in:
            tabs[-1].log_in(service.token)
        return tabs[-1]

    yield make
    errors = [error for tab in tabs for error in tab.errors]
    for tab in tabs:
        tab.close()
    assert not errors, f"the browser's console: {errors}"


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    return open_tab()


@pytest.fixture
def runs(service: Service) -> Runs:
    return Runs(service)
