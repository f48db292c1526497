"""The route class of every call with a bearer token: who asks is settled first, then the body is read within limits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from .bodies import BodyLimits, JsonRequest, read_body
from .tokens import Token, TokenStore

_MAX_TOKEN_LENGTH = 4096


class GuardedRoute(APIRoute):
    """Answers 401 before a byte of the body is read; `app.state` holds the tokens and the limits."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            tokens: TokenStore = request.app.state.tokens
            limits: BodyLimits = request.app.state.limits
            request.state.token = await run_in_threadpool(authenticate, tokens, request.headers.get("authorization"))
            return await handler(JsonRequest(request, await read_body(request, limits)))

        return guarded


def authenticate(tokens: TokenStore, authorization: str | None) -> Token:
    """The token that the header names. Raises HTTPException 401."""
    scheme, _, value = (authorization or "").partition(" ")
    token = tokens.find(value.strip()) if scheme.lower() == "bearer" and len(value) <= _MAX_TOKEN_LENGTH else None
    if token is None:
        raise HTTPException(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    return token


def current_token(request: Request) -> Token:
    """Dependency: who asks."""
    token: Token = request.state.token
    return token
