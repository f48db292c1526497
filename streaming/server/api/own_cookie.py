"""Of the cookies that a browser sends, only the session's is looked at.

A browser sends a host's cookies to all its ports, and everybody may send any. Python's reader of quoted cookies takes time
in the square of their length (until 3.12.6), and FastAPI reads all of them: so the others end here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

_SECRET = rb"[\w-]{1,100}"  # as `secrets.token_urlsafe` writes it


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
