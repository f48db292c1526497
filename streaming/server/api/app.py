"""The FastAPI application: its parts, and how errors look."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from streaming.server.api import changes, data, login, pages, runs
from streaming.server.api.admission import Admission, Share
from streaming.server.api.bodies import BodyLimits
from streaming.server.api.headers import OwnCookie, SecurityHeaders
from streaming.server.errors import Unavailable
from streaming.server.metrics.reader import RunReader
from streaming.server.metrics.watcher import Watcher
from streaming.server.settings import ApiSettings
from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.objects import Bucket
from streaming.server.storage.runs import RunStore
from streaming.server.storage.sessions import COOKIE, SessionStore
from streaming.server.storage.tokens import TokenStore
from streaming.server.storage.upload_credentials import CredentialIssuer

_RETRY_AFTER_S = 5
_MAX_ERRORS = 100
_THREADS = 100  # several times one caller's share of requests
_BODY_VARIANTS = {"inline", "s3"}


class _Application(FastAPI):
    """Every answer has the headers, also the one to a defect, which Starlette makes outside of all middleware."""

    def build_middleware_stack(self) -> ASGIApp:
        return SecurityHeaders(super().build_middleware_stack())


def create_app(settings: ApiSettings, *, limits: BodyLimits | None = None, share: Share | None = None) -> FastAPI:
    """The whole service over one directory and one S3."""
    app = _Application(title="tracker-stream server", version="1", docs_url=None, redoc_url=None, lifespan=_lifespan)
    database = ServerDatabase(Path(settings.directory) / "server.db")
    app.state.settings = settings
    app.state.limits = limits or BodyLimits()
    app.state.tokens = TokenStore(database)
    app.state.sessions = SessionStore(database)
    app.state.cookie = f"{COOKIE}_{settings.port}"  # a host's servers share its cookies: each has one of its own
    app.state.admission = Admission(share or Share())
    app.state.runs = RunStore(database)
    app.state.objects = Bucket(settings.s3)
    app.state.reader = RunReader(app.state.objects, app.state.runs, Path(settings.directory) / "cache")
    app.state.issuer = CredentialIssuer(settings.s3, lifetime_s=settings.credential_lifetime_s)
    app.state.watcher = Watcher(app.state.runs, app.state.reader)
    app.add_middleware(OwnCookie, name=app.state.cookie)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Unavailable, _answer_unavailable)
    for router in (runs.router, changes.router, data.router, login.router, pages.router):
        app.include_router(router)
    pages.mount_files(app)
    app.get("/health", include_in_schema=False)(_health)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = _THREADS
    app.state.watcher.start()
    yield
    close_app(app)


def close_app(app: FastAPI) -> None:
    """Release threads and connections."""
    app.state.watcher.stop()
    app.state.reader.close()
    app.state.objects.close()
    app.state.issuer.close()


async def _health(request: Request) -> dict[str, str]:
    return {"status": "ok", "instance": request.app.state.settings.instance}


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """422 in FastAPI's form, without echoing what was sent."""
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": [_public(detail) for detail in error.errors()[:_MAX_ERRORS]]}, 422)


def _public(detail: dict[str, Any]) -> dict[str, Any]:
    """The place is the caller's own: which variant of the body was tried is none of it."""
    where = list(detail["loc"])
    if len(where) > 2 and where[0] == "body" and where[1] in _BODY_VARIANTS:
        del where[1]
    return {"type": detail["type"], "loc": where, "msg": detail["msg"]}


async def _answer_unavailable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": str(_RETRY_AFTER_S)})
