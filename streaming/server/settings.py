"""What the API process is told at its start, on its standard input: it holds keys, so it is no argument, variable or file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

DEFAULT_PORT = 8742
DEFAULT_BUCKET = "tracker-stream"
DEFAULT_REGION = "us-east-1"
DEFAULT_CREDENTIAL_LIFETIME_S = 900  # as short as STS allows: keys of a revoked token live on for so long
STS_MIN_LIFETIME_S = 900  # of AssumeRole, in AWS and in SeaweedFS
STS_MAX_LIFETIME_S = 43_200


@dataclass(frozen=True)
class S3Settings:
    """An S3 with STS, and the keys that may assume the role and read what was delivered.

    `endpoint_url` None means AWS. `session_signing_key` (base64) is known only of the embedded SeaweedFS. With
    `hands_out_keys` there is no STS: uploaders get these very keys.
    """

    bucket: str
    role_arn: str
    access_key: str
    secret_key: str = field(repr=False)
    endpoint_url: str | None = None
    region: str = DEFAULT_REGION
    session_token: str | None = field(default=None, repr=False)
    session_signing_key: str | None = field(default=None, repr=False)
    hands_out_keys: bool = False


@dataclass(frozen=True)
class ApiSettings:
    """Everything the API process needs. `instance` is echoed by /health, so that a starter knows its own process."""

    directory: str
    instance: str
    s3: S3Settings
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    credential_lifetime_s: int = DEFAULT_CREDENTIAL_LIFETIME_S

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ApiSettings:
        value: dict[str, Any] = json.loads(text)
        return cls(**{**value, "s3": S3Settings(**value["s3"])})
