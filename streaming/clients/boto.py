"""boto3 and botocore as this product uses them: nothing of the surroundings, SigV4, our certificates.

Ambient AWS settings (profiles, files, endpoints, keys, regions) are not ours and are ignored: they are meant for the
user's own program, and would divert its rows and our session token. Used by the uploader and by the server.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.httpsession import URLLib3Session
from botocore.loaders import Loader
from botocore.utils import get_environ_proxies

from streaming.clients.aws_models import PutObjectOnly
from streaming.clients.certificates import certificates

CONNECT_TIMEOUT_S = 10.0
logging.getLogger("botocore").setLevel(logging.INFO)  # its DEBUG lines hold session tokens
_AWS = "https://s3.amazonaws.com"  # stands for all of AWS where proxies are chosen


class KeysOfThisCall(Credentials):  # type: ignore[misc]  # botocore has no types
    """What the present thread signs with: one client serves all runs and threads."""

    def __init__(self) -> None:
        super().__init__("none", "none")
        self._local = threading.local()

    def use(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        """For what this thread asks for next."""
        self._local.keys = ReadOnlyCredentials(access_key, secret_key, session_token or None)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return self._local.keys


def make_client(
    service: str,
    *,
    region: str,
    endpoint_url: str | None,
    keys: Credentials,
    read_timeout_s: float,
    attempt_count: int = 1,
    max_connections: int = 10,
    is_for_puts: bool = False,
) -> Any:
    """A client for "s3" or "sts" with exactly these settings. Thread-safe. Raises Unreachable for missing certificates.

    `is_for_puts`: it knows no other operation, and takes a tenth of the memory.
    """
    session = _isolated_session(keys, _loader(is_for_puts))
    return boto3.Session(botocore_session=session, region_name=region).client(
        service,
        endpoint_url=endpoint_url,
        verify=certificates(endpoint_url or _AWS),
        config=Config(
            signature_version="s3v4" if service == "s3" else "v4",
            connect_timeout=min(CONNECT_TIMEOUT_S, read_timeout_s),
            read_timeout=read_timeout_s,
            max_pool_connections=max_connections,
            retries={"total_max_attempts": attempt_count},
            s3={"addressing_style": "path" if endpoint_url else "auto", "us_east_1_regional_endpoint": "regional"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
            proxies=_proxies(endpoint_url),
        ),
    )


def make_http_session(endpoint_url: str | None, *, read_timeout_s: float, max_connections: int = 10) -> URLLib3Session:
    """What sends a signed request, with the same timeouts, proxies and certificates. Raises Unreachable as above."""
    return URLLib3Session(
        verify=certificates(endpoint_url or _AWS),
        proxies=_proxies(endpoint_url),
        timeout=(min(CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s),
        max_pool_connections=max_connections,
    )


def _proxies(endpoint_url: str | None) -> dict[str, str]:
    """Those of the environment; none for plain http, which goes to this machine only."""
    is_plain = endpoint_url is not None and endpoint_url.startswith("http://")
    found: dict[str, str] = {} if is_plain else get_environ_proxies(endpoint_url or _AWS)
    return found


def _isolated_session(keys: Credentials, loader: Loader) -> botocore.session.Session:
    """Every setting at its default, whatever variables and files say; signing with `keys`."""
    names = botocore.session.Session.SESSION_VARIABLES.items()
    session = botocore.session.Session(
        session_vars={
            **{name: (None, None, default, cast) for name, (_, _, default, cast) in names},
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    session.register_component("data_loader", loader)
    session.register_component("credential_provider", _GivenKeys(keys))
    return session


@functools.cache
def _loader(is_for_puts: bool) -> Loader:
    """Of botocore's own files; none of the user's (`~/.aws/models`). What it has read (a walk through all services, and
    megabytes for other clients than those for puts) serves all clients of the process."""
    paths, file_loader = [Loader.BUILTIN_DATA_PATH], PutObjectOnly() if is_for_puts else None
    return Loader(extra_search_paths=paths, file_loader=file_loader, include_default_search_paths=False)


class _GivenKeys:
    """A credential provider that looks nowhere."""

    def __init__(self, keys: Credentials) -> None:
        self._keys = keys

    def load_credentials(self) -> Credentials:
        return self._keys
