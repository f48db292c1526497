"""The delivered objects, listed and read with the server's own keys (the uploaders' keys can do neither)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from streaming.clients import boto
from streaming.clients.http import cause_of
from streaming.errors import Unreachable
from streaming.server.errors import StoreUnavailable
from streaming.server.settings import S3Settings

_READ_TIMEOUT_S = 30
_MAX_CONNECTIONS = 16
_KEYS_PER_DELETE = 1000
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,64})</Code>")
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


class Bucket:
    """One bucket. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, settings: S3Settings) -> None:
        self.bucket = settings.bucket
        self._region = settings.region
        self._client: Any = make_client("s3", settings)
        self._signer = S3SigV4Auth(_keys(settings), "s3", settings.region)
        with translated("Using S3"):
            self._http: Any = boto.make_http_session(
                settings.endpoint_url, read_timeout_s=_READ_TIMEOUT_S, max_connections=_MAX_CONNECTIONS
            )

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

    def put(self, key: str, content: bytes) -> None:
        """One object, whole. Raises StoreUnavailable."""
        with translated(f"Writing {key}"):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=content)

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

    def delete(self, prefix: str) -> int:
        """Every object below the prefix; how many there were. Raises StoreUnavailable unless all are gone."""
        keys = [{"Key": found.key} for found in self.list(prefix)]
        for first in range(0, len(keys), _KEYS_PER_DELETE):
            with translated(f"Deleting {prefix}"):
                wanted = {"Objects": keys[first : first + _KEYS_PER_DELETE], "Quiet": True}
                answer = self._client.delete_objects(Bucket=self.bucket, Delete=wanted)
            for error in answer.get("Errors", [])[:1]:
                raise StoreUnavailable(f"Deleting {error.get('Key')}: {error.get('Code')}", code=str(error.get("Code")))
        return len(keys)

    def read(self, key: str) -> bytes:
        """The whole object. Signed here: half the work of `get_object`, and a week's run has ten thousand objects.

        Raises StoreUnavailable, with the code "NoSuchKey" if the store says that there is no such object.
        """
        request = AWSRequest("GET", f"{self._client.meta.endpoint_url}/{self.bucket}/{quote(key, safe='/~')}")
        with translated(f"Reading {key}"):
            self._signer.add_auth(request)
            response = self._http.send(request.prepare())
            content: bytes = response.content
        if response.status_code != 200:
            found = _CODE.search(content[:4096])
            code = found.group(1).decode() if found else str(response.status_code)
            raise StoreUnavailable(f"Reading {key}: S3 answered {response.status_code} {code}", code=code)
        return content

    def close(self) -> None:
        self._client.close()
        self._http.close()

    def __enter__(self) -> Bucket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_client(service: str, settings: S3Settings) -> Any:
    """A client for "s3" or "sts" with exactly these settings. Thread-safe. Raises StoreUnavailable."""
    with translated("Using S3"):
        return boto.make_client(
            service,
            region=settings.region,
            endpoint_url=settings.endpoint_url,
            keys=_keys(settings),
            read_timeout_s=_READ_TIMEOUT_S,
            attempt_count=2,
            max_connections=_MAX_CONNECTIONS,
        )


def _keys(settings: S3Settings) -> Credentials:
    return Credentials(settings.access_key, settings.secret_key, settings.session_token)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the libraries' errors into StoreUnavailable, with S3's own code kept, and without the URL, which may be signed."""
    try:
        yield
    except ClientError as exc:
        error = exc.response.get("Error", {})
        code = str(error.get("Code", ""))
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        raise StoreUnavailable(f"{doing}: {status} {code} {error.get('Message', '')}".rstrip(), code=code) from exc
    except (BotoCoreError, HTTPClientError) as exc:
        raise StoreUnavailable(f"{doing}: S3 does not answer as it should ({cause_of(exc)})") from exc
    except Unreachable as exc:
        raise StoreUnavailable(f"{doing}: {exc.message}.", hint=exc.hint) from exc
