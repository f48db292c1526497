"""How a browser gets a session for a token, and ends it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, StringConstraints, model_validator

from streaming.server.api.guarded_route import LimitedRoute, find_viewer, holder_of
from streaming.server.api.schemas import Closed
from streaming.server.storage.sessions import LIFETIME, SessionStore
from streaming.server.storage.tokens import KnownToken, TokenStore

router = APIRouter(route_class=LimitedRoute, tags=["Login"])

Viewer = Annotated[KnownToken, Depends(find_viewer)]


Secret = Annotated[str, StringConstraints(max_length=4096, strip_whitespace=True)]


class Login(Closed):
    """A token, or the ticket of a link that `server up` or `server open` printed."""

    token: Secret | None = None
    ticket: Secret | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Login:
        if (self.token is None) == (self.ticket is None):
            raise ValueError("a token or a ticket is expected")
        return self


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
    """Exchange a token or ticket for a session cookie (HttpOnly, SameSite=Strict; it changes runs from our own page only)."""
    sessions: SessionStore = request.app.state.sessions
    tokens: TokenStore = request.app.state.tokens
    holder = holder_of(request)
    token = tokens.find(body.token) if body.token is not None else sessions.redeem(body.ticket or "", holder)
    if token is None:
        used = "The link was used already, has expired, or is another user's." if body.ticket is not None else ""
        raise HTTPException(401, used or "The token is not valid.")
    response.set_cookie(
        request.app.state.cookie,
        sessions.open(token, holder),
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
