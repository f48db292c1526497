"""Headers, as ASGI middleware: what of a request's the application sees, and what every answer has.

In every answer: the browser loads nothing from elsewhere, runs no inline script, and is framed by no one.

Of the cookies that a browser sends, only the session's is looked at. A browser sends a host's cookies to all its ports,
and everybody may send any. Python's reader of quoted cookies takes time in the square of their length (until 3.12.6), and
FastAPI reads all of them: so the others end here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SECRET = rb"[\w-]{1,100}"  # as `secrets.token_urlsafe` writes it
_CACHING = {"Cache-Control": "no-store"}  # unless a route says otherwise: rows and credentials are nobody else's


class SecurityHeaders:
    """Puts them into every answer that has no others of the name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, **_CACHING}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class OwnCookie:
    """Hands a request on with the cookie `name`, if it has a plain one, and no other."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._own = re.compile(rb"(?:^|;)\s*(" + name.encode() + rb"=" + _SECRET + rb")\s*(?:;|$)")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*self._kept(scope["headers"])]}
        await self._app(scope, receive, send)

    def _kept(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for name, value in headers:
            if name != b"cookie":
                yield name, value
            elif own := self._own.search(value):
                yield name, own[1]
