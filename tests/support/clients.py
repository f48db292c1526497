"""The two doors to the far end, opened together for one token."""

from __future__ import annotations

from dataclasses import dataclass, field

from streaming.clients.credentials import CredentialKeeper
from streaming.clients.s3 import ObjectStore
from streaming.clients.sentinel import SentinelApi


@dataclass(frozen=True)
class Clients:
    """The two doors to the far end, for one token."""

    service: SentinelApi
    store: ObjectStore
    token: str | None = field(default=None, repr=False)

    @classmethod
    def connect(cls, token: str, *, api_url: str, s3_endpoint_url: str | None) -> Clients:
        """Nothing is sent yet. Raises BadArgument for URLs that are not safe to use."""
        service = SentinelApi(token, base_url=api_url)
        return cls(service, ObjectStore(CredentialKeeper(service.refresh), endpoint_url=s3_endpoint_url), token)

    def reset(self) -> None:
        """Drop connections that did not survive, e.g. a suspension."""
        self.service.reset()
        self.store.reset()
