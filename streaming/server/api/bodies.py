"""Request bodies: read within limits, decompressed within limits, looked at before they are parsed, parsed strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Message

from streaming.server.api.json_shape import JsonLimits, TooComplex, check_shape
from streaming.server.gunzip import NotGzip, TooLarge, gunzip

_AT_ONCE_BYTES = 4096  # are read sooner than a thread is found for them


@dataclass(frozen=True)
class BodyLimits:
    """In bytes: as it comes over the wire, and after decompression; and in what it may hold."""

    wire_bytes: int = 8 * 2**20
    plain_bytes: int = 32 * 2**20
    json: JsonLimits = field(default_factory=JsonLimits)


OF_STRANGERS = BodyLimits(8 * 1024, 8 * 1024, JsonLimits(values=50, keys=50, containers=10, depth=4))


class JsonRequest(Request):
    """A request whose body has been read, decompressed and parsed already."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, _replay(body))
        self._value = value

    async def json(self) -> Any:
        if isinstance(self._value, ValueError):
            raise self._value
        return self._value


async def read_json(request: Request, limits: BodyLimits) -> JsonRequest:
    """The request with its body parsed. NaN and Infinity are no JSON. Raises HTTPException 400, 413 or 415.

    What takes time is done beside the event loop, which serves everybody.
    """
    wire = await _read_wire(request, limits.wire_bytes)
    if wire:
        _check_content_type(request)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity" and len(wire) <= _AT_ONCE_BYTES:
        return JsonRequest(request, *_decode_and_parse(wire, encoding, limits))
    return JsonRequest(request, *await run_in_threadpool(_decode_and_parse, wire, encoding, limits))


def _decode_and_parse(wire: bytes, encoding: str, limits: BodyLimits) -> tuple[bytes, Any]:
    """The plain bytes, and their value or the ValueError that FastAPI makes a 422 or 400 of."""
    body = _decode(wire, encoding, limits.plain_bytes)
    try:
        check_shape(body, limits.json)
        return body, json.loads(body.decode("utf-8"), parse_constant=_refuse_constant) if body else None
    except TooComplex as exc:
        raise HTTPException(400, str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        return body, exc


async def _read_wire(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        _too_large(limit)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                _too_large(limit)
            parts.append(part)
    except ClientDisconnect as exc:  # nobody hears the answer: it only keeps a traceback for each out of the log
        raise HTTPException(400, "The request broke off.") from exc
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
