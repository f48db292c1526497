"""The only place where the server makes clients of S3 and STS, and where their errors are translated."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from streaming.server.errors import StoreUnavailable
from streaming.server.settings import S3Settings

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_MAX_CONNECTIONS = 16

# Nothing ambient: no profile, no configuration file, no endpoint from the environment.
_NO_AMBIENT_SETTINGS: dict[str, tuple[None, None, str | None, None]] = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


def make_client(service: str, settings: S3Settings) -> Any:
    """A client for `s3` or `sts` with exactly these settings. Thread-safe, as botocore's clients are."""
    return _session().create_client(
        service,
        region_name=settings.region,
        endpoint_url=settings.endpoint_url,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.session_token,
        config=_config(settings),
    )


@functools.cache
def _session() -> Any:
    """Shared: it has read the service descriptions, which takes longer than making a client."""
    return botocore.session.Session(session_vars=_NO_AMBIENT_SETTINGS)


def make_http_session(settings: S3Settings) -> Any:
    """What sends a signed request, with the client's timeouts and proxies."""
    proxies = {} if _is_loopback(settings.endpoint_url) else get_environ_proxies(settings.endpoint_url or "https://")
    timeouts = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
    return URLLib3Session(timeout=timeouts, max_pool_connections=_MAX_CONNECTIONS, proxies=proxies)


def _config(settings: S3Settings) -> Config:
    return Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"total_max_attempts": 2},
        max_pool_connections=_MAX_CONNECTIONS,
        ignore_configured_endpoint_urls=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        proxies={} if _is_loopback(settings.endpoint_url) else None,
    )


def _is_loopback(url: str | None) -> bool:
    return (urlsplit(url).hostname if url else None) in {"127.0.0.1", "localhost", "::1"}


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn botocore's errors into StoreUnavailable, with S3's own code kept."""
    try:
        yield
    except ClientError as exc:
        error = exc.response.get("Error", {})
        code = str(error.get("Code", ""))
        raise StoreUnavailable(f"{doing}: {code} {error.get('Message', '')}".strip(), code=code) from exc
    except (BotoCoreError, HTTPClientError) as exc:
        raise StoreUnavailable(f"{doing}: {exc}") from exc
