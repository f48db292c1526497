"""The delivered objects, listed and read with the server's own keys (the uploaders' keys can do neither)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from botocore.awsrequest import AWSRequest

from streaming.server.errors import StoreUnavailable
from streaming.server.settings import S3Settings

from .s3_client import make_client, make_http_session, translated

_SIGNED_FOR_S = 300
_PROBE_KEY = ".probe"
_MISSING = {"404", "NoSuchBucket"}
_EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


@dataclass(frozen=True)
class StoredObject:
    """An object as S3 lists it. `etag` is without quotes."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime


class ObjectStore:
    """One bucket. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, settings: S3Settings) -> None:
        self.bucket = settings.bucket
        self._region = settings.region
        self._client: Any = make_client("s3", settings)
        self._http: Any = make_http_session(settings)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there (keys that may not create one are then enough)."""
        try:
            with translated(f"Looking for the bucket {self.bucket}"):
                self._client.head_bucket(Bucket=self.bucket)
            return
        except StoreUnavailable as exc:
            if exc.code not in _MISSING:
                raise
        self._create_bucket()

    def _create_bucket(self) -> None:
        where = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        try:
            with translated(f"Creating the bucket {self.bucket}"):
                options = {"CreateBucketConfiguration": where} if where else {}
                self._client.create_bucket(Bucket=self.bucket, **options)
        except StoreUnavailable as exc:
            if exc.code not in _EXISTS:
                raise

    def probe(self) -> None:
        """Write and remove one object: raises StoreUnavailable unless the store really takes objects."""
        with translated(f"Writing to the bucket {self.bucket}"):
            self._client.put_object(Bucket=self.bucket, Key=_PROBE_KEY, Body=b"probe")
            self._client.delete_object(Bucket=self.bucket, Key=_PROBE_KEY)

    def wait_until_usable(self, *, timeout_s: float, is_alive: Any = lambda: True) -> None:
        """Create the bucket and probe until both work; raises the last StoreUnavailable at the deadline or when it died."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.ensure_bucket()
                return self.probe()
            except StoreUnavailable:
                if time.monotonic() > deadline or not is_alive():
                    raise
            time.sleep(0.1)

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        """Every object below the prefix, sorted by key (as text); only those behind the key `after`, where one is given."""
        token: dict[str, str] = {"StartAfter": after} if after else {}
        while True:
            with translated(f"Listing {prefix}"):
                page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **token)
            for entry in page.get("Contents", []):
                yield StoredObject(entry["Key"], entry["Size"], entry["ETag"].strip('"'), entry["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, key: str) -> bytes:
        """The whole object. By a signed URL: half the work of `get_object`, and a week's run has ten thousand objects."""
        with translated(f"Reading {key}"):
            url = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=_SIGNED_FOR_S
            )
            response = self._http.send(AWSRequest("GET", url).prepare())
            content: bytes = response.content
        if response.status_code != 200:
            raise StoreUnavailable(f"Reading {key}: status {response.status_code}", code=str(response.status_code))
        return content

    def close(self) -> None:
        self._client.close()
        self._http.close()

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
