"""Who asks, whether it is their turn, and how much they may send: looked at before a request's body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from streaming.processes.peers import uid_of_client
from streaming.server.api.admission import DELIVERING, LOOKING, Admission
from streaming.server.api.bodies import OF_STRANGERS, BodyLimits, read_json
from streaming.server.storage.sessions import SessionStore, holder_name
from streaming.server.storage.tokens import KnownToken, TokenStore

_MAX_TOKEN_LENGTH = 4096
SHARE_HEADER = "x-share"  # no cookie: a browser sends it along only where our own script does


class LimitedRoute(APIRoute):
    """Reads a body from strangers: small, and JSON only."""

    def limits(self, request: Request) -> BodyLimits:  # noqa: ARG002 - for those who know who asks
        return OF_STRANGERS

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            return await handler(await read_json(request, self.limits(request)))

        return limited


def _find_bearer(request: Request) -> KnownToken:
    return authenticate(request.app.state.tokens, request.headers.get("authorization"))


def _find_looker(request: Request) -> KnownToken:
    secret = request.headers.get(SHARE_HEADER)
    return find_viewer(request) if secret is None else _find_sharer(request, secret)


def _find_owner(request: Request) -> KnownToken:
    if "authorization" not in request.headers:
        require_own_page(request)
    return find_viewer(request)


class _CallersRoute(APIRoute):
    """Answers 401 to whoever is unknown, and 429 to a caller with too much in hand; the caller is in `request.state.token`.

    A caller's turn lasts until the answer is sent, also one that is streamed.
    """

    doing: str
    find_caller: Callable[[Request], KnownToken]  # raises HTTPException 401

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        request.state.token = token = await run_in_threadpool(self.find_caller, request)
        admission: Admission = request.app.state.admission
        async with admission.turn(token.id, self.doing):
            await super().handle(scope, receive, send)


class GuardedRoute(_CallersRoute, LimitedRoute):
    """For bearers of a token; bodies within `app.state.limits`."""

    doing = DELIVERING
    find_caller = staticmethod(_find_bearer)

    def limits(self, request: Request) -> BodyLimits:
        limits: BodyLimits = request.app.state.limits
        return limits


class ViewedRoute(_CallersRoute):
    """For all who may look: bearers of a token, browsers with a session, and at one run whoever was given its link."""

    doing = LOOKING
    find_caller = staticmethod(_find_looker)


class ChangingRoute(_CallersRoute, LimitedRoute):
    """For its owner at a run's page, and bearers of a token. Bodies are small.

    A browser hands the session's cookie to pages of other ports of this host, too: what it sends counts only if it says
    that our own page sent it. Every browser says so of a request that changes anything.
    """

    doing = LOOKING
    find_caller = staticmethod(_find_owner)


def _find_sharer(request: Request, secret: str) -> KnownToken:
    """The token whose run the link shows. Raises HTTPException 401, as for a run that there is not."""
    run_id = request.path_params.get("run_id")
    sessions: SessionStore = request.app.state.sessions
    token = sessions.find_shared(secret, run_id) if run_id and len(secret) <= _MAX_TOKEN_LENGTH else None
    if token is None:
        raise HTTPException(401, "The link has expired, or is for another run.")
    return token


def require_own_page(request: Request) -> None:
    """The browser says that a page of ours sent this. Raises HTTPException 403."""
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "The request comes from another site.")


async def current_token(request: Request) -> KnownToken:
    """Dependency: who asks. (Asynchronous: it need not wait for a thread.)"""
    token: KnownToken = request.state.token
    return token


def authenticate(tokens: TokenStore, authorization: str | None) -> KnownToken:
    """The token that the header names. Raises HTTPException 401."""
    scheme, _, value = (authorization or "").partition(" ")
    token = tokens.find(value.strip()) if scheme.lower() == "bearer" and len(value) <= _MAX_TOKEN_LENGTH else None
    if token is None:
        raise HTTPException(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    return token


def find_viewer(request: Request) -> KnownToken:
    """Whose runs are seen, by the bearer token or else by the session's cookie. Raises HTTPException 401."""
    if known := getattr(request.state, "token", None):
        return cast(KnownToken, known)  # the route has looked already
    if "authorization" in request.headers:
        return authenticate(request.app.state.tokens, request.headers["authorization"])
    token = find_session(request)
    if token is None:
        raise HTTPException(401, "Log in with a token.", {"WWW-Authenticate": "Bearer"})
    return token


def find_session(request: Request) -> KnownToken | None:
    """The token whose session the browser holds, if it holds one."""
    secret = request.cookies.get(request.app.state.cookie)
    sessions: SessionStore = request.app.state.sessions
    return sessions.find(secret, holder_of(request)) if secret else None


def holder_of(request: Request) -> str:
    """Who sits at the other end, as far as the kernel tells: the user, on this machine; nobody in particular, elsewhere.

    A browser sends its cookie to every port of a host. Another user of this machine who listens on one and lures the
    browser there gets the cookie, and can do nothing with it: a session is its holder's.
    """
    client, server = request.client, request.scope.get("server")
    if client is None or server is None or server[1] is None:
        return ""
    try:
        return holder_name(uid_of_client((client.host, client.port), (server[0], server[1])))
    except ValueError:  # no address: a Unix socket
        return ""
