"""Route classes that look at a request before its body is parsed: within limits, and (guarded) only with a bearer token."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from streaming.server.api.bodies import BodyLimits, JsonRequest, read_body
from streaming.server.storage.tokens import Token, TokenStore

_MAX_TOKEN_LENGTH = 4096


class LimitedRoute(APIRoute):
    """Reads the body within `app.state.limits`, decompressed, and of type JSON only."""

    async def admit(self, request: Request) -> None:
        """Called before a byte of the body is read; raises HTTPException to refuse."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            await self.admit(request)
            limits: BodyLimits = request.app.state.limits
            return await handler(JsonRequest(request, await read_body(request, limits)))

        return limited


class GuardedRoute(LimitedRoute):
    """Answers 401 unless `app.state.tokens` knows the bearer token; leaves the token in `request.state`."""

    async def admit(self, request: Request) -> None:
        tokens: TokenStore = request.app.state.tokens
        request.state.token = await run_in_threadpool(authenticate, tokens, request.headers.get("authorization"))


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
