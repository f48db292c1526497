"""The pages: each a file of `server/web` in the frame that all have, and where a browser without a session is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from streaming.server.api.guarded_route import find_session

WEB = Path(__file__).parent.parent / "web"
_REVALIDATE = {"Cache-Control": "no-cache"}  # kept by the browser, asked about each time: a new release shows at once

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Page:
    """A file and the script that fills it. `is_open`: also for whoever has no session."""

    title: str
    file: str
    script: str
    has_charts: bool = False
    is_open: bool = False

    def html(self) -> str:
        text = Template(_read("frame")).substitute(title=self.title, script=self.script, page=_read(self.file))
        left_out = [*([] if self.has_charts else ["charts"]), *(["account"] if self.is_open else [])]
        return (
            re.sub(rf"<!-- ({'|'.join(left_out)}) -->.*?<!-- /\1 -->\n", "", text, flags=re.DOTALL)
            if left_out
            else text
        )


_PAGES = {
    "/": Page("Runs", "index", "runs"),
    "/run/{run_id}": Page("Run", "run", "run_live", has_charts=True),
    "/job": Page("Job", "job", "job", has_charts=True),
    "/compare": Page("Compare", "compare", "compare", has_charts=True),
    # whoever has the link: the secret stays in the browser, which shows it to the calls
    "/shared/{run_id}": Page("Run", "run", "run_live", has_charts=True, is_open=True),
    "/login": Page("Log in", "login", "login", is_open=True),
}


def mount_files(app: FastAPI) -> None:
    """Scripts, styles and the icon: nothing in them is secret."""
    app.mount("/pages", _Files(directory=WEB), name="pages")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_REVALIDATE)
        return response


def _read(name: str) -> str:
    return (WEB / f"{name}.html").read_text(encoding="utf-8")


def _add(path: str, page: Page) -> None:
    html = page.html()

    @router.get(path)
    def show(request: Request) -> Response:
        if page.is_open or find_session(request) is not None:
            return HTMLResponse(html, headers=_REVALIDATE)
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(where)}", 303)


for _path, _page in _PAGES.items():
    _add(_path, _page)
