"""A web page in a browser beside the server: what it can send there, what it can read, and what the browser hands it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
from playwright.sync_api import Error as PlaywrightError

from streaming.server import EmbeddedServer
from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.sessions import SessionStore, holder_name
from tests.security.conftest import Tried
from tests.security.test_other_users import PATHS, VERBS, ours_of, stored
from tests.streaming.server.web.conftest import chromium
from tests.support.other_user import Nobody

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

__all__ = ["chromium", "stored"]
pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("whole-server")]

# Every verb at every path of every port, in all ways a page has; `read` are the answers that it may look into.
ATTACK = """async ({ports, verbs, paths}) => {
  const read = [];
  let tried = 0;
  const attempt = async (url, options) => {
    tried += 1;
    try {
      const answer = await fetch(url, {...options, credentials: "include", signal: AbortSignal.timeout(5000)});
      if (answer.type !== "opaque") read.push([url, options.method, answer.status, await answer.text()]);
    } catch {}
  };
  for (const port of ports) await Promise.all(paths.map(async (path) => {
    const url = `http://127.0.0.1:${port}${path}`;
    await Promise.all(verbs.filter((verb) => !["TRACE", "CONNECT"].includes(verb)).map((method) => attempt(url, {method})));
    new Image().src = url;
    tried += 1;
  }));
  return {read, tried};
}"""


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a site</title><body>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """Another site: `localhost` is one, to a browser, when the server is 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def logged_in(chromium: Browser, whole_server: EmbeddedServer) -> Iterator[BrowserContext]:
    """A browser in which the owner has logged in at the server's page."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{whole_server.api_url}/login")
    page.fill("#token", whole_server.token)
    page.click("button.primary")
    page.wait_for_url(f"{whole_server.api_url}/")
    yield context
    context.close()


def test_a_page_deletes_nothing_and_reads_nothing(
    logged_in: BrowserContext, whole_server: EmbeddedServer, stored: str, site: str, tried: Tried
) -> None:
    page = logged_in.new_page()
    page.goto(site)
    ports = sorted(ours_of(whole_server).ports)
    report: dict[str, Any] = page.evaluate(ATTACK, {"ports": ports, "verbs": VERBS, "paths": PATHS})
    for port in ports:
        navigated = logged_in.new_page()
        with contextlib.suppress(PlaywrightError):  # most hang up
            navigated.goto(f"http://127.0.0.1:{port}/col/delete?collection={whole_server.bucket}")
        navigated.close()
    tried("requests of a web page", report["tried"] + len(ports))
    assert report["tried"] > 1500
    assert [answer for answer in report["read"] if not _says_only_that_it_lives(answer)] == []


def _says_only_that_it_lives(answer: list[Any]) -> bool:
    """S3's /healthz and the like allow everybody to read that it runs."""
    _, _, status, text = answer
    return bool(status >= 400 and "AccessDenied" in text) or text.strip() in {"", "ok", "OK"}


def test_a_cookie_that_was_lured_away_is_worth_nothing_to_its_thief(
    logged_in: BrowserContext, whole_server: EmbeddedServer, nobody: Nobody, tried: Tried
) -> None:
    with nobody.start_python(THIEF, whole_server.api_url) as thief:
        page = logged_in.new_page()
        page.goto(thief.read_line())
        stolen = json.loads(thief.read_line())
        statuses = json.loads(thief.read_line())
        thief.wait(60)
    assert stolen, "the browser hands its cookies to every port of the host: that is why they must be worth nothing"
    assert statuses == {"/runs": 401, "/session": 401}
    own = requests.get(f"{whole_server.api_url}/runs", headers={"Cookie": stolen}, timeout=60)
    assert own.status_code == 200
    tried("stolen cookies", 2)


THIEF = """
import http.server, json, sys, urllib.error, urllib.request
class Bait(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.cookie = self.server.cookie or self.headers.get("Cookie", "")
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Bait)
server.cookie = ""
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.handle_request()
print(json.dumps(server.cookie), flush=True)
def status(path):
    request = urllib.request.Request(sys.argv[1] + path, headers={"Cookie": server.cookie})
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as refusal:
        return refusal.code
print(json.dumps({path: status(path) for path in ("/runs", "/session")}), flush=True)
"""


def test_a_link_that_another_user_saw_is_worth_nothing_to_them(
    chromium: Browser, whole_server: EmbeddedServer, nobody: Nobody, tried: Tried
) -> None:
    """A browser that is started with it shows it to everybody in /proc. Its own user's browser logs in by it."""
    sessions = SessionStore(ServerDatabase(whole_server.directory.database))
    token = whole_server.tokens.find(whole_server.token)
    assert token is not None
    ticket = sessions.ticket(token, holder_name(os.getuid()))
    link = f"{whole_server.api_url}/login#ticket={ticket}"
    done = nobody.run_python(USE, URL=f"{whole_server.api_url}/session", TICKET=ticket)
    assert done.stdout.strip() == "401", done.stderr
    context = chromium.new_context()
    page = context.new_page()
    page.goto(link)
    page.wait_for_url(f"{whole_server.api_url}/")
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("#problem:not([hidden])")
    assert "used already" in page.inner_text("#problem")
    context.close()
    tried("links of another user", 2)


USE = """
import json, os, urllib.error, urllib.request
body = json.dumps({"ticket": os.environ["TICKET"]}).encode()
request = urllib.request.Request(os.environ["URL"], body, {"Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(request, timeout=60).status)
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


ELSEWHERE = [
    "//SITE/",
    "/\\SITE/",
    "/\t/SITE/",
    "/\n/SITE/",
    "/\r\n\\SITE/",
    "\\\\SITE/",
    "http://SITE/",
    "javascript:alert(1)",
    "\t//SITE",
    "/.//SITE/",
    "/x/..//SITE/",
    "HERE//SITE/",
]


def test_a_login_leads_to_no_other_site(
    chromium: Browser, whole_server: EmbeddedServer, site: str, tried: Tried
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    for where in ELSEWHERE:
        target = where.replace("SITE", site.removeprefix("http://")).replace("HERE", whole_server.api_url)
        page.goto(f"{whole_server.api_url}/login?next={quote(target, safe='')}")
        page.fill("#token", whole_server.token)
        page.click("button.primary")
        page.wait_for_url(lambda url: "/login" not in url, wait_until="commit")
        assert page.url.startswith(f"{whole_server.api_url}/"), where
    context.close()
    tried("places to go to after a login", len(ELSEWHERE))
