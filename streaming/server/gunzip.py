"""Decompress gzip from strangers: never more than a limit, however small the bomb or many its pieces."""

from __future__ import annotations

import zlib

MAX_MEMBERS = 1_000
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 16 * 1024  # what follows a member is copied, so a piece at a time: else n members cost n copies of all


class NotGzip(ValueError):
    """Not gzip at all, damaged, or cut off."""


class TooLarge(ValueError):
    """More plain bytes, or more members, than the limit."""


def gunzip(data: bytes, *, limit: int) -> bytes:
    """All members' plain bytes. Holds at most `limit` + 1 of them; linear in the data. Raises NotGzip or TooLarge."""
    parts: list[bytes] = []
    size = members = at = 0
    while at < len(data):
        members += 1
        if members > MAX_MEMBERS:
            raise TooLarge(f"more than {MAX_MEMBERS} gzip members")
        member = zlib.decompressobj(_GZIP_WINDOW)
        while not member.eof:
            if at >= len(data):
                raise NotGzip("cut off in the middle of the gzip data")
            piece = data[at : at + _PIECE_BYTES]
            plain = _decompressed(member, piece, limit + 1 - size)
            size += len(plain)
            if size > limit:
                raise TooLarge(f"more than {limit} bytes when decompressed")
            parts.append(plain)
            at += len(piece) - len(member.unused_data)
    return b"".join(parts)


def _decompressed(member: zlib._Decompress, piece: bytes, limit: int) -> bytes:
    """Up to `limit` bytes, which are at least 1: all that the piece holds, or one more than may be."""
    try:
        return member.decompress(piece, limit)
    except zlib.error as exc:
        raise NotGzip(f"not gzip: {exc}") from exc
