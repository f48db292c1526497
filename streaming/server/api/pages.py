"""The pages: the static files of `server/web`, and where a browser without a session is sent."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from streaming.server.api.guarded_route import find_session

PAGES = Path(__file__).parent.parent / "web"
_REVALIDATE = {"Cache-Control": "no-cache"}  # kept by the browser, asked about each time: a new release shows at once

router = APIRouter(include_in_schema=False)


@router.get("/")
def runs_page(request: Request) -> Response:
    return _page(request, "index.html")


@router.get("/run/{run_id}")
def run_page(request: Request) -> Response:
    return _page(request, "run.html")


@router.get("/job")
def job_page(request: Request) -> Response:
    return _page(request, "job.html")


@router.get("/compare")
def compare_page(request: Request) -> Response:
    return _page(request, "compare.html")


@router.get("/shared/{run_id}")
def shared_page() -> Response:
    """A run's page for whoever has the link: the secret stays in the browser, which shows it to the calls."""
    return FileResponse(PAGES / "run.html", headers=_REVALIDATE)


@router.get("/login")
def login_page() -> Response:
    return FileResponse(PAGES / "login.html", headers=_REVALIDATE)


def mount_files(app: FastAPI) -> None:
    """Scripts, styles and the icon: nothing in them is secret."""
    app.mount("/pages", _Files(directory=PAGES), name="pages")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_REVALIDATE)
        return response


def _page(request: Request, name: str) -> Response:
    if find_session(request) is None:
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(where)}", 303)
    return FileResponse(PAGES / name, headers=_REVALIDATE)
