"""What an error answer of S3 means: which error of ours it becomes, and what a person can do about it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from streaming.clients.http import printable, remedy, retry_after_s, served_at
from streaming.clients.prefix import require_region
from streaming.errors import (
    Busy,
    ClockSkew,
    CredentialsRefused,
    NotTheService,
    SegmentRefused,
    SegmentTooLarge,
    StreamError,
)

_SHOWN_CHARACTERS = 200
_REDIRECTS = range(300, 400)
_CREDENTIAL_CODES = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "TokenRefreshRequired",
    "SignatureDoesNotMatch",
}
_BUSY_CODES = {"RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted"}
_TOO_LARGE_CODES = {"EntityTooLarge", "MaxMessageLengthExceeded"}
_NO_CONDITION_STATUSES = {400, 405, 501}
_CODE = re.compile(r"[^A-Za-z0-9._-]")  # whatever else is in an error code is not for logs
_REGION_ELEMENT = re.compile(rb"<Region>([a-z0-9-]{1,32})</Region>")

_HINTS = {
    "NoSuchBucket": "the bucket that the service names is not there: its operator must create it, or name another",
    "MetadataTooLarge": "the store allows shorter headers than a session token needs: its operator must raise the limit",
    "AuthorizationHeaderMalformed": "the store is of another region than the service says: its operator must name it",
    "IllegalLocationConstraintException": "the bucket is of another region than the service says",
    "InvalidRequest": "the store does not take such a request: see its own words",
    "KeyTooLongError": "the service gives prefixes too long for this store",
    "QuotaExceeded": "the store is full for this account",
    "AccessDenied": "the credentials that the service gives may not put objects below its prefix",
}


class AlreadyThere(StreamError):
    """412 to `If-None-Match: *`."""


class ConditionUnknown(StreamError):
    """The store may not know `If-None-Match`."""


class OtherRegion(StreamError):
    """The bucket is of another region, which the answer names."""

    def __init__(self, message: str, *, region: str) -> None:
        super().__init__(message)
        self.region = region


def require_answer_of_s3(
    status: int, headers: Mapping[str, str], body: bytes, *, asked_in: str, is_custom: bool
) -> None:
    """Look at an answer before botocore does, which would try its luck elsewhere, or call it unreadable.

    `asked_in` is the region of the request.
    Raises OtherRegion, SegmentTooLarge for a proxy's page, and NotTheService for what S3 never answers.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    region = _named_region(headers, body)
    if region and region != asked_in and (status in _REDIRECTS or status == 400):
        raise OtherRegion(f"S3 answered {status}: the bucket is of region {region}", region=region)
    if status in _REDIRECTS and is_custom:
        raise NotTheService(
            f"S3 answered {status}, which is not how S3 answers", cause="captive portal", hint=remedy("captive portal")
        )
    if status == 413 and kind == "text/html":
        raise SegmentTooLarge(
            "413 comes from something before S3, a proxy: the object is too large for it",
            status=status,
            code="413",
            hint="smaller objects are tried; raise the proxy's limit (nginx: client_max_body_size)",
        )
    if status == 200 and kind == "application/json":
        raise NotTheService(
            "200 with JSON is not how S3 answers: something else listens at S3's address",
            cause="not S3",
            hint="check SENTINEL_S3_ENDPOINT_URL: is it the port of the S3 API, not of a console?",
        )


def _named_region(headers: Mapping[str, str], body: bytes) -> str | None:
    element = _REGION_ELEMENT.search(body)
    named = headers.get("x-amz-bucket-region") or (element.group(1).decode() if element else None)
    return require_region(named) if named else None


def understand(error: Any, *, conditional: bool, secrets: Collection[str]) -> StreamError:
    """The fitting error of ours for an error answer of S3 (botocore's ClientError), which may echo `secrets`."""
    metadata = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode") or 0)
    given = error.response.get("Error", {})
    code = _CODE.sub("", str(given.get("Code", "")))[:64]
    message = f"S3 answered {status} {code}".rstrip()
    headers = metadata.get("HTTPHeaders", {})
    served = served_at(headers.get("date"))
    if status == 412 and conditional:
        return AlreadyThere(message)
    if code == "RequestTimeTooSkewed":
        return ClockSkew(f"{message}: this machine's clock is {_skew(served)}", cause="clock skew", hint="set it")
    if code in _CREDENTIAL_CODES or status in (401, 403):
        return CredentialsRefused(message, hint=_HINTS.get(code, ""), is_about_keys=code in _CREDENTIAL_CODES)
    if conditional and status in _NO_CONDITION_STATUSES and code not in _BUSY_CODES:
        return ConditionUnknown(message)
    if status in (409, 429) or status >= 500 or code in _BUSY_CODES:
        asked_s = retry_after_s(headers.get("retry-after"), served_at=served)
        return Busy(message, cause="captive portal" if status == 511 else f"HTTP {status}", retry_after_s=asked_s)
    if status in _REDIRECTS or status < 300 or code in ("", str(status)):
        return NotTheService(
            f"{message}, which is not how S3 answers", cause="captive portal", hint=remedy("captive portal")
        )
    kind = SegmentTooLarge if status == 413 or code in _TOO_LARGE_CODES else SegmentRefused
    words = _words(str(given.get("Message") or ""), secrets)
    return kind(f"{message}{words}", status=status, code=code, hint=_HINTS.get(code, ""))


def _words(text: str, secrets: Collection[str]) -> str:
    """S3's own words for it, in parentheses: they say more than its code."""
    for secret in secrets:
        text = text.replace(secret, "***")
    shown = printable(text, _SHOWN_CHARACTERS).strip()
    return f" ({shown})" if shown else ""


def _skew(served: datetime) -> str:
    """How wrong our clock is, in words."""
    ahead_s = (datetime.now(timezone.utc) - served).total_seconds()
    return f"{abs(ahead_s) / 60:.0f} minutes {'ahead of' if ahead_s > 0 else 'behind'} S3's"
