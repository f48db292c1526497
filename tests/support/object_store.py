"""S3's PUT, path-style, as S3 does it: credentials, scope, checksums, conditions."""

import hashlib
import hmac
import zlib
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from uuid import uuid4

from tests.support import signature
from tests.support.faults import error_xml
from tests.support.grants import Grant, Grants
from tests.support.wire import Answer, Head, Request, base64_digest

SKEW_MAX_S = 900.0
CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda body: hashlib.sha256(body).digest(),
    "sha1": lambda body: hashlib.sha1(body).digest(),
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
}


class Refusal(Exception):
    """S3 says no: the answer to give."""

    def __init__(self, status: int, code: str, message: str, **fields: str) -> None:
        super().__init__(code)
        self.answer = error_xml(status, code, message, **fields)


class ObjectStore:
    """Objects by their `s3://bucket/key` URI; `history` has the sha256 of every content each key ever held."""

    def __init__(self, grants: Grants, clock: Callable[[], float]) -> None:
        self._grants = grants
        self._clock = clock
        self.buckets: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.history: defaultdict[str, list[str]] = defaultdict(list)
        self.verifies_signature = False
        self.knows_if_none_match = True
        self.echoes_checksum = True
        self.expired_token_status = 400  # what AWS S3 answers; some others say 403
        self.bucket_region = "us-east-1"

    def uri(self, head: Head) -> str:
        return f"s3:/{head.path}"

    def put(self, request: Request) -> Answer:
        try:
            self._authorize(request)
            self._verify(request)
            self._check_condition(request)
        except Refusal as refusal:
            return refusal.answer
        return self._store(request)

    def region(self, head: Head) -> Answer:
        """HEAD of a bucket without leave: 403, and yet the header that names the region."""
        known = head.path.strip("/") in self.buckets
        return Answer(403 if known else 404, b"", {"x-amz-bucket-region": self.bucket_region} if known else {})

    def _authorize(self, request: Request) -> None:
        head = request.head
        claimed = signature.parse(head.headers.get("authorization", ""))
        if claimed is None:
            raise Refusal(403, "AccessDenied", "Access Denied")
        grant = self._grants.find(claimed.access_key)
        if grant is None or grant.revoked:
            raise Refusal(
                403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
            )
        if not hmac.compare_digest(head.headers.get("x-amz-security-token", "").encode(), grant.session_token.encode()):
            raise Refusal(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        if self._grants.is_expired(grant):
            raise Refusal(self.expired_token_status, "ExpiredToken", "The provided token has expired.")
        self._check_time(head)
        if self.verifies_signature and not signature.verifies(head, claimed, grant.secret_key):
            raise Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        self._check_scope(head, grant)

    def _check_time(self, head: Head) -> None:
        text = head.headers.get("x-amz-date", "")
        try:
            claimed = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        except ValueError:
            raise Refusal(
                403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
            ) from None
        if abs(claimed.timestamp() - self._clock()) > SKEW_MAX_S:
            raise Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and ours is too large.")

    def _check_scope(self, head: Head, grant: Grant) -> None:
        bucket = head.path.split("/")[1]
        if bucket not in self.buckets:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist", BucketName=bucket)
        if not head.path.startswith(f"/{grant.prefix}/"):
            raise Refusal(403, "AccessDenied", "not allowed outside of the prefix")

    def _verify(self, request: Request) -> None:
        """Every digest that the peer sent fits the body that arrived."""
        content = request.head.headers.get("x-amz-content-sha256", "")
        if len(content) == 64 and content != hashlib.sha256(request.body).hexdigest():
            raise Refusal(400, "XAmzContentSHA256Mismatch", "x-amz-content-sha256 does not match what was computed.")
        md5 = request.head.headers.get("content-md5")
        if md5 is not None and md5 != base64_digest(hashlib.md5(request.body).digest()):
            raise Refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        for name, text in _sent_checksums(request).items():
            if name not in CHECKSUMS:
                raise Refusal(501, "NotImplemented", f"this far end cannot compute {name}")
            if text != base64_digest(CHECKSUMS[name](request.body)):
                raise Refusal(400, "BadDigest", f"The {name.upper()} you specified did not match.")

    def _check_condition(self, request: Request) -> None:
        condition = request.head.headers.get("if-none-match")
        if condition is None:
            return
        if not self.knows_if_none_match or condition != "*":
            raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
        if self.uri(request.head) in self.objects:
            message = "At least one of the pre-conditions you specified did not hold"
            raise Refusal(412, "PreconditionFailed", message, Condition="If-None-Match")

    def _store(self, request: Request) -> Answer:
        uri = self.uri(request.head)
        self.objects[uri] = request.body
        self.headers[uri] = dict(request.head.headers)
        self.history[uri].append(hashlib.sha256(request.body).hexdigest())
        headers = {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"', "x-amz-request-id": uuid4().hex}
        if self.echoes_checksum:
            headers |= {f"x-amz-checksum-{name}": text for name, text in _sent_checksums(request).items()}
        return Answer(200, b"", headers)


def _sent_checksums(request: Request) -> dict[str, str]:
    start = "x-amz-checksum-"
    both = {**request.head.headers, **request.trailers}
    return {name.removeprefix(start): text for name, text in both.items() if name.startswith(start)}
