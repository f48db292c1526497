"""Who may look: a bearer token, or a browser's session. And how a browser gets one."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, StringConstraints

from streaming.server.api.guarded_route import LimitedRoute, authenticate
from streaming.server.api.schemas import Closed
from streaming.server.storage.sessions import COOKIE, LIFETIME, SessionStore
from streaming.server.storage.tokens import Token, TokenStore

router = APIRouter(route_class=LimitedRoute, tags=["Login"])


def current_viewer(request: Request) -> Token:
    """Dependency of everything that only reads. Raises HTTPException 401."""
    tokens: TokenStore = request.app.state.tokens
    sessions: SessionStore = request.app.state.sessions
    if "authorization" in request.headers:
        return authenticate(tokens, request.headers["authorization"])
    token = sessions.find(request.cookies.get(COOKIE, ""))
    if token is None:
        raise HTTPException(401, "Log in with a token.", {"WWW-Authenticate": "Bearer"})
    return token


Viewer = Annotated[Token, Depends(current_viewer)]


class Login(Closed):
    token: Annotated[str, StringConstraints(max_length=4096, strip_whitespace=True)]


class Identity(BaseModel):
    """Whose runs are seen."""

    name: str


def same_origin(request: Request) -> None:
    """A browser says where a request comes from; another site's page may neither log in nor out. Raises HTTPException 403."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "The request comes from another site.")


@router.post("/session", dependencies=[Depends(same_origin)])
def log_in(request: Request, response: Response, body: Login) -> Identity:
    """Exchange a token for a session cookie (HttpOnly, SameSite=Strict; it opens nothing that changes anything)."""
    token = request.app.state.tokens.find(body.token)
    if token is None:
        raise HTTPException(401, "The token is not valid.")
    response.set_cookie(
        COOKIE,
        request.app.state.sessions.open(token),
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return Identity(name=token.name)


@router.get("/session")
def who_am_i(viewer: Viewer) -> Identity:
    """Whose runs are seen; 401 without a valid session."""
    return Identity(name=viewer.name)


@router.delete("/session", status_code=204, dependencies=[Depends(same_origin)])
def log_out(request: Request) -> Response:
    """End the session."""
    request.app.state.sessions.close(request.cookies.get(COOKIE, ""))
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
