"""AWS Signature Version 4 of a received S3 request, for those who want it verified."""

import hashlib
import hmac
import re
from dataclasses import dataclass

from tests.support.wire import Head

AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+),\s*SignedHeaders=([^,]+),\s*Signature=(\w+)")


@dataclass(frozen=True)
class Authorization:
    access_key: str
    scope: str  # date/region/service/aws4_request
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def region(self) -> str:
        return self.scope.split("/")[1]


def parse(header: str) -> Authorization | None:
    found = AUTHORIZATION.match(header)
    if found is None:
        return None
    access_key, scope, names, signature = found.groups()
    return Authorization(access_key, scope, tuple(names.split(";")), signature)


def verifies(head: Head, authorization: Authorization, secret_key: str) -> bool:
    expected = _sign(secret_key, authorization.scope, _text_to_sign(head, authorization))
    return hmac.compare_digest(expected, authorization.signature)


def _text_to_sign(head: Head, authorization: Authorization) -> str:
    canonical = hashlib.sha256(_canonical_request(head, authorization).encode()).hexdigest()
    return "\n".join(["AWS4-HMAC-SHA256", head.headers.get("x-amz-date", ""), authorization.scope, canonical])


def _canonical_request(head: Head, authorization: Authorization) -> str:
    names = authorization.signed_headers
    headers = "".join(f"{name}:{' '.join(head.headers.get(name, '').split())}\n" for name in names)
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in head.query.split("&") if part))
    content = head.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    return "\n".join([head.method, head.raw_path, query, headers, ";".join(names), content])


def _sign(secret_key: str, scope: str, text: str) -> str:
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
