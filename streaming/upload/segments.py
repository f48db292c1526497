"""From a segment to the object that S3 holds: its key and its bytes. Pure and deterministic."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from spool import Segment

SMALL_BYTES = 256 << 10
_LEVEL_SMALL = 9  # a minute of rows: as small as the peers', and still well under a millisecond
_LEVEL_LARGE = 6  # a backlog: half the time of level 9 for one or two per cent more bytes
# Written out because zlib's own header differs between Python versions (byte 10): no name, mtime 0, unknown system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def object_key(segment: Segment) -> str:
    """The key below the run's prefix: sorts by sequence, and names the content, so the same key is the same rows."""
    return f"{segment.seq:08d}-{segment.sha256[:12]}.csv.gz"


def compress(pieces: Iterable[bytes], *, csv_bytes: int) -> bytes:
    """gzip of the pieces (`csv_bytes` in all), the same bytes for the same pieces wherever zlib is the same."""
    level = _LEVEL_SMALL if csv_bytes <= SMALL_BYTES else _LEVEL_LARGE
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc32, size = 0, 0
    compressed = [_HEADER]
    for piece in pieces:
        crc32 = zlib.crc32(piece, crc32)
        size += len(piece)
        compressed.append(compressor.compress(piece))
    return b"".join((*compressed, compressor.flush(), struct.pack("<II", crc32, size & 0xFFFFFFFF)))
