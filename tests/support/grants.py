"""The STS credentials that the far end handed out, and what S3 thinks of them."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone


@dataclass(frozen=True)
class Grant:
    """Leave to PUT below `prefix` until `expires_at_s` (the far end's clock), with recognisable keys."""

    access_key: str
    secret_key: str
    session_token: str
    prefix: str  # "bucket/path"
    expires_at_s: float
    revoked: bool = False


class Grants:
    """All grants by access key, and the settings for the next one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_key: dict[str, Grant] = {}
        self.lifetime_s: float = 3600.0
        self.claimed_lifetime_s: float | None = None  # what the answer says, where it should differ from the truth
        self.expiry_field: str | None = "expires_at"  # or "expiration", or None
        self.expiry_text: str | None = None  # sent verbatim instead of a time
        self.region: str | None = None

    def issue(self, prefix: str) -> Grant:
        name = uuid.uuid4().hex
        keys = (f"ASIA{name[:16].upper()}", f"canary-secret-key-{name}", f"canary-session-token-{name}" * 3)
        grant = Grant(*keys, prefix=prefix, expires_at_s=self._clock() + self.lifetime_s)
        self._by_key[grant.access_key] = grant
        return grant

    def as_json(self, grant: Grant) -> dict[str, str]:
        """The `upload_credentials` of the contract."""
        fields = {
            "access_key": grant.access_key,
            "secret_key": grant.secret_key,
            "session_token": grant.session_token,
        }
        if self.expiry_field:
            fields[self.expiry_field] = self.expiry_text or self._claimed_expiry(grant)
        if self.region is not None:
            fields["region"] = self.region
        return fields

    def _claimed_expiry(self, grant: Grant) -> str:
        claimed = self.claimed_lifetime_s
        at_s = grant.expires_at_s if claimed is None else self._clock() + claimed
        return datetime.fromtimestamp(at_s, timezone.utc).isoformat().replace("+00:00", "Z")

    def find(self, access_key: str) -> Grant | None:
        return self._by_key.get(access_key)

    def all(self) -> list[Grant]:
        return list(self._by_key.values())

    def is_expired(self, grant: Grant) -> bool:
        return self._clock() >= grant.expires_at_s

    def expire_all(self) -> None:
        self._by_key = {key: replace(grant, expires_at_s=0.0) for key, grant in self._by_key.items()}

    def revoke_all(self) -> None:
        self._by_key = {key: replace(grant, revoked=True) for key, grant in self._by_key.items()}
