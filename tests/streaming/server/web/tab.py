"""A browser's tab that keeps a record: errors in its console, requests, bytes that came over the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

DEADLINE_MS = 90_000
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False}
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_EXPECTED = "Failed to load resource: the server responded with a status of 401"  # of the login page, asked for


@dataclass
class Tab:
    """One page in a context of its own."""

    page: Page
    context: BrowserContext
    url: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    wire_bytes: int = 0

    @classmethod
    def open(cls, browser: Browser, url: str, *, width: int, height: int, scheme: str) -> Tab:
        wanted = cast(Literal["light", "dark"], scheme)
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=wanted, timezone_id="UTC", locale="en-GB"
        )
        context.set_default_timeout(DEADLINE_MS)
        tab = cls(context.new_page(), context, url)
        tab._listen()
        return tab

    def _listen(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._on_request)
        devtools = self.context.new_cdp_session(self.page)
        devtools.send("Network.enable")
        devtools.on("Network.loadingFinished", self._on_loaded)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_EXPECTED):
            self.errors.append(f"{message.text} ({message.location})")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url.removeprefix(self.url))

    def _on_loaded(self, event: dict[str, Any]) -> None:
        self.wire_bytes += int(event["encodedDataLength"])

    def log_in(self, token: str) -> None:
        answer = self.context.request.post(f"{self.url}/session", data={"token": token})
        assert answer.ok, answer.text()

    def begin(self, path: str) -> None:
        """Open a page that leads on to another at once: a navigation that overtakes `goto` would be an error of it."""
        self.page.goto(self.url + path, wait_until="commit")

    def go(self, path: str) -> Tab:
        """Open a page of the service; a run's when its charts are there."""
        self.page.goto(self.url + path)
        if path.startswith("/run/"):
            self.page.wait_for_selector("body[data-ready]")
        elif path == "/":
            self.wait_until("document.getElementById('count').textContent !== ''")
        return self

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return " ".join(self.page.locator(selector).inner_text().replace("\u202f", " ").split())

    def all_text(self, selector: str) -> str:
        """What is there, also for those who only hear it."""
        return " ".join((self.page.locator(selector).text_content() or "").replace("\u202f", " ").split())

    def wait_text(self, selector: str, text: str) -> None:
        self.wait_for(lambda: text in self.all_text(selector), f"{text!r} in {selector}")

    def wait_until(self, expression: str) -> None:
        """Until the JavaScript is true. Not Playwright's own way, which the page's policy forbids (it evaluates strings)."""
        self.wait_for(lambda: bool(self.page.evaluate(expression)), expression)

    def series_asked(self) -> list[dict[str, list[str]]]:
        """The query of every request for a series."""
        return [parse_qs(urlsplit(path).query) for path in self.requests if "/series?" in path]

    def wait_series(self, count: int) -> None:
        """Until so many series have been asked for and nothing more is on its way."""
        self.wait_for(lambda: len(self.series_asked()) >= count, f"{count} series")
        self.page.wait_for_load_state("networkidle")

    def wait_for(self, is_true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + DEADLINE_MS / 1000
        while not is_true():
            assert time.monotonic() < until, f"waited in vain for {what}"
            self.page.wait_for_timeout(20)

    def violations(self) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))  # as the devtools do: the page's policy stays as it is
        found: list[dict[str, Any]] = self.page.evaluate(f"axe.run({json.dumps(AXE_OPTIONS)})")["violations"]
        serious = [rule for rule in found if rule["impact"] in {"serious", "critical"}]
        return [f"{rule['id']}: {node['html'][:200]}" for rule in serious for node in rule["nodes"]]

    def is_scrolling_sideways(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def close(self) -> None:
        self.context.close()
