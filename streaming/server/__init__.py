"""A target on this machine: a Sentinel-compatible API in front of a real S3.

with embedded(tmp_path) as target:
    target.api_url, target.s3_endpoint_url, target.token, target.bucket
    target.stop_api(), target.start_api(), target.stop_s3(), target.start_s3()
    target.run(run_id), target.read_objects(run_id), target.inline_csv(run_id)
"""

from __future__ import annotations

from streaming.server.process.embedded import EmbeddedTarget, embedded

__all__ = ["EmbeddedTarget", "embedded"]
