"""Request bodies: read within limits, decompressed within limits, parsed strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from fastapi import HTTPException, Request
from starlette.types import Message

from streaming.server.gunzip import NotGzip, TooLarge, gunzip


@dataclass(frozen=True)
class BodyLimits:
    """In bytes: as it comes over the wire, and after decompression."""

    wire_bytes: int = 8 * 2**20
    plain_bytes: int = 32 * 2**20


class JsonRequest(Request):
    """A request whose body has been read and decompressed already. NaN and Infinity are no JSON."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, _replay(body))

    async def json(self) -> Any:
        return json.loads(await self.body(), parse_constant=_refuse_constant)


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """The plain bytes of the body. Raises HTTPException 400, 413 or 415."""
    body = await _read_wire(request, limits.wire_bytes)
    if body:
        _check_content_type(request)
    return _decode(body, request.headers.get("content-encoding", "identity").strip().lower(), limits.plain_bytes)


async def _read_wire(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        _too_large(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _check_content_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, f"Content-Type application/json is expected, not {media_type or 'none'!r}.")


def _decode(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding == "gzip":
        return _gunzip(body, limit)
    if encoding != "identity":
        raise HTTPException(415, "Content-Encoding may be gzip or identity.", {"Accept-Encoding": "gzip, identity"})
    if len(body) > limit:
        _too_large(limit)
    return body


def _gunzip(body: bytes, limit: int) -> bytes:
    try:
        return gunzip(body, limit=limit)
    except TooLarge:
        _too_large(limit)
    except NotGzip as exc:
        raise HTTPException(400, f"The body is {exc}, though Content-Encoding says gzip.") from exc


def _too_large(limit: int) -> NoReturn:
    raise HTTPException(413, f"The body is larger than {limit} bytes.")


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _replay(body: bytes) -> Any:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
