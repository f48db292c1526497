"""Decompress gzip from strangers: never more than a limit, however small the bomb."""

from __future__ import annotations

import zlib

_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class NotGzip(ValueError):
    """Not gzip at all, damaged, or cut off."""


class TooLarge(ValueError):
    """More plain bytes than the limit."""


def gunzip(data: bytes, *, limit: int) -> bytes:
    """All members' plain bytes. Holds at most `limit` + 1 of them. Raises NotGzip or TooLarge."""
    parts, size = [], 0
    while data:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            plain = member.decompress(data, limit + 1 - size)
        except zlib.error as exc:
            raise NotGzip(f"not gzip: {exc}") from exc
        size += len(plain)
        if size > limit:
            raise TooLarge(f"more than {limit} bytes when decompressed")
        if not member.eof:
            raise NotGzip("cut off in the middle of the gzip data")
        parts.append(plain)
        data = member.unused_data
    return b"".join(parts)
