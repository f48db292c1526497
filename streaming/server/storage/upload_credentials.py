"""Short-lived upload credentials from STS, good for `s3:PutObject` below one prefix and nothing else.

What is enforced: the prefix and the action, by S3 itself through the session policy. The lifetime, by S3 itself, from
900 s up. Below that STS refuses to issue: with the embedded SeaweedFS, whose signing key is ours, the session token is
issued for 900 s and signed again with the earlier expiry, so S3 enforces that too (it answers `InvalidAccessKeyId`);
with any other S3 the earlier expiry is only told to the client.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from streaming.server.settings import STS_MAX_LIFETIME_S, STS_MIN_LIFETIME_S, S3Settings
from streaming.server.storage.objects import make_client, translated


@dataclass(frozen=True)
class UploadCredentials:
    """What an uploader gets. Its repr shows no secret."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime
    region: str

    def as_json(self) -> dict[str, str]:
        """With one name of the expiry: the Rust client refuses an answer with both `expires_at` and `expiration`."""
        expiry = self.expires_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "session_token": self.session_token,
            "expires_at": expiry,
            "region": self.region,
        }


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class CredentialIssuer:
    """Asks STS for credentials; thread-safe."""

    def __init__(self, settings: S3Settings, *, lifetime_s: int, now: Callable[[], datetime] = _utc_now) -> None:
        self._settings = settings
        self._lifetime_s = lifetime_s
        self._now = now
        self._client: Any = make_client("sts", settings)

    def issue(self, *, run_id: str, prefix: str) -> UploadCredentials:
        """Credentials for PutObject below `prefix` (a key prefix without bucket). Raises StoreUnavailable."""
        if self._settings.hands_out_keys:
            return self._own_keys()
        with translated("Asking STS for upload credentials"):
            answer = self._client.assume_role(
                RoleArn=self._settings.role_arn,
                RoleSessionName=f"run-{run_id}",
                DurationSeconds=min(max(self._lifetime_s, STS_MIN_LIFETIME_S), STS_MAX_LIFETIME_S),
                Policy=json.dumps(
                    put_only_policy(self._settings.bucket, prefix), separators=(",", ":")
                ),  # Ceph: no blanks,
            )["Credentials"]
        issued = UploadCredentials(
            answer["AccessKeyId"],
            answer["SecretAccessKey"],
            answer["SessionToken"],
            answer["Expiration"],
            self._settings.region,
        )
        return self._shortened(issued)

    def close(self) -> None:
        self._client.close()

    def _own_keys(self) -> UploadCredentials:
        """For a store without STS. Their expiry is told, so that uploaders ask again, and enforced by nobody."""
        s3, expiry = self._settings, (self._now() + timedelta(seconds=self._lifetime_s)).replace(microsecond=0)
        return UploadCredentials(s3.access_key, s3.secret_key, s3.session_token or "", expiry, s3.region)

    def _shortened(self, issued: UploadCredentials) -> UploadCredentials:
        expiry = (self._now() + timedelta(seconds=self._lifetime_s)).replace(microsecond=0)
        if expiry >= issued.expires_at:
            return issued
        key = self._settings.session_signing_key
        token = sign_with_expiry(issued.session_token, key=key, expiry=expiry) if key else issued.session_token
        return replace(issued, session_token=token, expires_at=expiry)


def put_only_policy(bucket: str, prefix: str) -> dict[str, Any]:
    """The session policy: PutObject below the prefix."""
    statement = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{bucket}/{prefix}/*"]}
    return {"Version": "2012-10-17", "Statement": [statement]}


def sign_with_expiry(token: str, *, key: str, expiry: datetime) -> str:
    """SeaweedFS's session token (an HS256 JWT) with another expiry."""
    header, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["exp"] = int(expiry.timestamp())
    signed = f"{header}.{_base64url(json.dumps(claims, separators=(',', ':')).encode())}"
    signature = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64url(signature)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
