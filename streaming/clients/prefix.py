"""Where the service may tell us to upload: `s3://bucket/path` prefixes and regions, checked before use. Pure.

The service's answer decides where our rows and our session token go; a hostile or broken one must not reach further.
"""

from __future__ import annotations

import re

from streaming.errors import NotTheService

_BUCKET = re.compile(r"(?!xn--|.*--x-s3$|\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PATH = re.compile(r"[A-Za-z0-9!_.*'()=+@,:&$;~ /-]{1,900}")
_RUN_ID = re.compile(r"(?!\.+$)[A-Za-z0-9._:~@=+/-]{1,200}")
_REGION = re.compile(
    r"(?!\d+$|-)[a-z0-9-]{1,32}(?<!-)", re.ASCII
)  # what botocore takes, which else raises an error of its own


def require_prefix(uri: str) -> str:
    """`uri` without trailing slash if it is a plain `s3://bucket/path`. Raises NotTheService otherwise."""
    bucket, path = split(uri)
    is_plain = (
        _BUCKET.fullmatch(bucket)
        and ".." not in bucket
        and _PATH.fullmatch(path)
        and not any(part in ("", ".", "..") for part in path.split("/"))
    )
    if not uri.startswith("s3://") or not is_plain:
        raise NotTheService(f"the service named an unusable upload prefix {uri[:120]!r}", cause="unexpected answer")
    return f"s3://{bucket}/{path}"


def require_region(region: object) -> str:
    """`region` if it looks like an AWS region. Raises NotTheService otherwise (it becomes part of a host name).

    The message does not repeat it: who answers with a secret that we sent must not get it into a log.
    """
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise NotTheService("the service or S3 named an unusable region", cause="unexpected answer")
    return region


def require_run_id(run_id: str) -> str:
    """`run_id` if it is a plain name. Raises NotTheService otherwise (it becomes part of paths, and people see it)."""
    if not _RUN_ID.fullmatch(run_id):
        raise NotTheService(f"the service named an unusable run id {run_id!r:.60}", cause="unexpected answer")
    return run_id


def split(uri: str) -> tuple[str, str]:
    """Bucket and path (without slashes around it) of an `s3://` URI."""
    bucket, _, path = uri.removeprefix("s3://").partition("/")
    return bucket, path[:-1] if path.endswith("/") else path
