"""A server on this machine: a Sentinel-compatible API in front of a real S3.

with embedded(tmp_path) as server:
    server.api_url, server.s3_endpoint_url, server.token, server.bucket
    server.stop_api(), server.start_api(), server.stop_s3(), server.start_s3()
    server.run(run_id), server.read_objects(run_id), server.inline_csv(run_id)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.server.process.embedded import EmbeddedServer, embedded

__all__ = ["EmbeddedServer", "embedded"]


def __getattr__(name: str) -> object:
    """Loaded when first asked for: the processes that parse objects are started often, and need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streaming.server.process import embedded

    return getattr(embedded, name)
