"""How a browser gets a session for a token, and ends it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, StringConstraints

from streaming.server.api.guarded_route import LimitedRoute, find_viewer, holder_of
from streaming.server.api.schemas import Closed
from streaming.server.storage.sessions import LIFETIME
from streaming.server.storage.tokens import Token

router = APIRouter(route_class=LimitedRoute, tags=["Login"])

Viewer = Annotated[Token, Depends(find_viewer)]


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
        request.app.state.cookie,
        request.app.state.sessions.open(token, holder_of(request)),
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
    cookie = request.app.state.cookie
    request.app.state.sessions.close(request.cookies.get(cookie, ""), holder_of(request))
    response = Response(status_code=204)
    response.delete_cookie(cookie, httponly=True, samesite="strict")
    return response
