"""The door to S3: put one object and prove that it is stored. The only file that imports boto3 and botocore.

Stored means: status 200, an ETag, and either our checksum echoed or the ETag being the MD5 of the body. Everything else
is an outage. Ambient AWS settings (profiles, endpoints, keys, regions) are not ours and are ignored.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import boto3
import botocore.session
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as AMBIENT_SETTINGS
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies
from urllib3 import exceptions as urllib3_errors

from streaming import config
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.deadline import DeadlinePassed, deadline
from streaming.clients.http import cause_of, is_caused_by, read_capped, retry_after_s, served_at
from streaming.clients.prefix import require_prefix, require_region, split
from streaming.errors import (
    Busy,
    ClockSkew,
    CredentialsRefused,
    NotTheService,
    SegmentRefused,
    StreamError,
    Unreachable,
)

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
DEADLINE_S = 60.0
DEADLINE_BYTES_PER_S = 64 << 10  # a slow link may take this much longer: 8 MiB over two minutes
PATIENCE_MAX = 8  # times the deadline, doubled whenever it passes: a slower link must get a segment through some day
ANSWER_MAX_BYTES = 1 << 20
_FOREIGN_ERRORS = (BotoCoreError, urllib3_errors.HTTPError, DeadlinePassed, OSError, ValueError)
_REDIRECTS = range(300, 400)
_CREDENTIAL_CODES = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired"}
_CODE = re.compile(r"[^A-Za-z0-9._-]")  # whatever else is in an error code is not for logs
_BUSY_CODES = {"RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted"}

log = logging.getLogger(__name__)
logging.getLogger("botocore").setLevel(logging.INFO)  # its DEBUG lines hold session tokens


@dataclass(frozen=True)
class Receipt:
    """The proof that S3 holds an object."""

    uri: str
    etag: str


class ObjectStore:
    """Puts objects of any run with that run's credentials. Raises Transient's kinds, Unauthorized, Refused's kinds."""

    def __init__(
        self,
        keeper: CredentialKeeper,
        *,
        endpoint_url: str | None = None,
        deadline_s: float = DEADLINE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._keeper = keeper
        self._endpoint_url = config.s3_endpoint_url(endpoint_url)
        self._deadline_s = deadline_s
        self._read_timeout_s = read_timeout_s
        self._patience = 1
        self._clients: dict[str, _Client] = {}
        self._regions: dict[str, str] = {}
        self._knows_conditions = True
        self._unproven: set[str] = set()  # what was sent and not proved: lost replies, mostly

    def keep(self, run_id: str, credentials: Credentials) -> None:
        """Use these credentials for the run, until they are due."""
        self._keeper.keep(run_id, credentials)

    def reset(self) -> None:
        """Drop all connections, e.g. after the machine was suspended."""
        for client in self._clients.values():
            client.reset()

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        """Store `body` (gzip) at `uri`. The same call again is harmless: the key names the content.

        One forced refresh if S3 refuses the credentials.
        """
        credentials = self._keeper.fresh(run_id)
        try:
            return self._put(uri, body, credentials)
        except CredentialsRefused as refused:
            log.info("credentials.refused: %s; asking for new ones", refused.message)
            renewed = self._keeper.replace_refused(run_id, refused)
        try:
            return self._put(uri, body, renewed)
        except CredentialsRefused as refused:
            raise NotTheService(
                f"S3 refuses fresh credentials ({refused.message})", cause="credentials refused"
            ) from refused

    def _put(self, uri: str, body: bytes, credentials: Credentials) -> Receipt:
        """Put only if nothing is there; if something is, put the same bytes over it.

        A 412 alone proves nothing: it says that an object is there, not which one, and we may not look. After a lost
        reply it is ours and is written again, byte for byte; otherwise it is foreign, and only ours may stay.
        """
        try:
            receipt = self._put_unless_there(uri, body, credentials, is_repeated=uri in self._unproven)
        except (Unreachable, NotTheService):
            self._unproven.add(uri)
            raise
        self._unproven.discard(uri)
        return receipt

    def _put_unless_there(self, uri: str, body: bytes, credentials: Credentials, *, is_repeated: bool) -> Receipt:
        if not self._knows_conditions:
            return self._attempt(uri, body, credentials)
        try:
            return self._attempt(uri, body, credentials, IfNoneMatch="*")
        except _AlreadyThere:
            log.log(
                logging.INFO if is_repeated else logging.WARNING,
                "upload.already_there: %s held an object already; it is written again with this run's rows",
                uri,
            )
            return self._attempt(uri, body, credentials)
        except _ConditionUnknown:
            receipt = self._attempt(uri, body, credentials)
            self._knows_conditions = False
            return receipt

    def _attempt(self, uri: str, body: bytes, credentials: Credentials, **condition: str) -> Receipt:
        """One PUT within its deadline, and the proof."""
        bucket, key = split(require_prefix(uri))  # a spool from elsewhere may say anything
        region = credentials.region or self._region(bucket)
        client = self._client(region)
        md5 = hashlib.md5(body, usedforsecurity=False)
        sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
        try:
            with deadline((self._deadline_s + len(body) / DEADLINE_BYTES_PER_S) * self._patience):
                answer = client.put(
                    credentials,
                    Bucket=bucket,
                    Key=key,
                    Body=body,
                    ContentType="application/gzip",
                    ContentMD5=base64.b64encode(md5.digest()).decode(),
                    ChecksumSHA256=sha256,
                    **condition,
                )
        except ClientError as error:
            raise _understand(error, conditional=bool(condition)) from error
        except ResponseParserError as error:
            raise NotTheService(
                "S3's answer cannot be read, a captive portal perhaps", cause="captive portal"
            ) from error
        except _FOREIGN_ERRORS as error:
            self.reset()
            if is_caused_by(error, DeadlinePassed):
                self._patience = min(self._patience * 2, PATIENCE_MAX)
            raise _unreachable(error, self._endpoint_url) from error
        return Receipt(uri, _proof(answer, md5.hexdigest(), sha256))

    def _client(self, region: str) -> _Client:
        if region not in self._clients:
            self._clients[region] = _Client(region, self._endpoint_url, self._read_timeout_s)
        return self._clients[region]

    def _region(self, bucket: str) -> str:
        """The bucket's region, from AWS's own answer; any will do for another store. Cached."""
        if self._endpoint_url:
            return "us-east-1"
        if bucket not in self._regions:
            try:
                with deadline(self._deadline_s):
                    self._regions[bucket] = _ask_region(bucket, _session(self._endpoint_url, self._read_timeout_s))
            except (*_FOREIGN_ERRORS, KeyError) as error:
                raise _unreachable(error, None) from error
        return self._regions[bucket]


class _Client:
    """One boto3 client whose credentials are set per call, and whose answers are limited in size."""

    def __init__(self, region: str, endpoint_url: str | None, read_timeout_s: float) -> None:
        self._credentials = BotoCredentials("none", "none", "none")
        self._is_custom = endpoint_url is not None
        core = botocore.session.Session(
            session_vars={
                **{name: (None, None, default, cast) for name, (_, _, default, cast) in AMBIENT_SETTINGS.items()},
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
            }
        )
        core._credentials = self._credentials
        self._client = boto3.Session(botocore_session=core, region_name=region).client(
            "s3",
            endpoint_url=endpoint_url,
            verify=_certificates(),
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": 1},
                s3={
                    "addressing_style": "path" if endpoint_url else "virtual",
                    "us_east_1_regional_endpoint": "regional",
                },
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=True,
                use_fips_endpoint=False,
                use_dualstack_endpoint=False,
                proxies={},
            ),
        )
        self._new_session = partial(_session, endpoint_url, read_timeout_s)
        self._session = self._new_session()
        self._client.meta.events.register("before-send.s3", self._send_capped)

    def reset(self) -> None:
        """Drop all connections. The client itself stays: to make one costs a third of a second of CPU."""
        self._session.close()
        self._session = self._new_session()

    def put(self, credentials: Credentials, **arguments: Any) -> Mapping[str, Any]:
        self._credentials.access_key = credentials.access_key
        self._credentials.secret_key = credentials.secret_key
        self._credentials.token = credentials.session_token
        answer: Mapping[str, Any] = self._client.put_object(**arguments)
        return answer

    def _send_capped(self, request: Any, **_: Any) -> AWSResponse:
        """Send, and read the answer up to the limit: botocore itself would read whatever comes."""
        request.stream_output = True
        _spell_out(request.headers)
        response = self._session.send(request)
        try:
            response._content = read_capped(response.raw.stream(64 << 10), ANSWER_MAX_BYTES)
        except BaseException:
            response.raw.close()  # a half-read connection serves no other request
            raise
        if response.status_code in _REDIRECTS and self._is_custom:  # botocore would try its luck in another region
            raise NotTheService(f"S3 answered {response.status_code}, not S3's way to answer", cause="captive portal")
        return response


def _spell_out(headers: Any) -> None:
    """Header values as text, which botocore leaves as bytes: urllib3 2.8 stumbles over those when a 303 comes, and the
    socket stays open. `Expect` is compared with bytes (`AWSConnection.request`)."""
    for name, value in list(headers.items()):
        if isinstance(value, bytes) and name != "Expect":
            headers[name] = value.decode("latin-1")


def check_reachable(endpoint_url: str | None, *, deadline_s: float) -> None:
    """Does anything that speaks HTTP answer at S3's address? Unsigned, nothing is put; for `doctor`. Raises Unreachable."""
    session = _session(endpoint_url, deadline_s)
    request = AWSRequest(method="HEAD", url=f"{endpoint_url or 'https://s3.amazonaws.com'}/").prepare()
    try:
        with deadline(deadline_s):
            session.send(request)
    except _FOREIGN_ERRORS as error:
        raise _unreachable(error, endpoint_url) from error
    finally:
        session.close()


def _session(endpoint_url: str | None, read_timeout_s: float) -> URLLib3Session:
    is_plain = endpoint_url is not None and endpoint_url.startswith("http://")
    url = endpoint_url or "https://s3.amazonaws.com"
    return URLLib3Session(
        verify=_certificates(),
        proxies={} if is_plain else get_environ_proxies(url),
        timeout=(min(CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s),
    )


def _certificates() -> str | bool:
    """The same certificates that requests trusts for the API."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


def _ask_region(bucket: str, session: URLLib3Session) -> str:
    """AWS names the region in a header, whatever else it answers to an unsigned HEAD."""
    request = AWSRequest(method="HEAD", url=f"https://s3.amazonaws.com/{bucket}").prepare()
    return require_region(session.send(request).headers["x-amz-bucket-region"])


def _proof(answer: Mapping[str, Any], md5: str, sha256: str) -> str:
    """The ETag, if the answer proves storage. Raises NotTheService otherwise."""
    etag = str(answer.get("ETag") or "").strip('"')
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status == 200 and etag and (answer.get("ChecksumSHA256") == sha256 or etag.lower() == md5):
        return etag
    raise NotTheService(
        f"S3's answer ({status}) does not prove that the object is stored", cause="captive portal or broken store"
    )


class _AlreadyThere(StreamError):
    """412 to `If-None-Match: *`."""


class _ConditionUnknown(StreamError):
    """The store does not know `If-None-Match`."""


def _understand(error: ClientError, *, conditional: bool) -> StreamError:
    """The fitting error of ours for an error answer of S3."""
    metadata = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode") or 0)
    code = _CODE.sub("", str(error.response.get("Error", {}).get("Code", "")))[:64]
    message = f"S3 answered {status} {code}".rstrip()
    headers = metadata.get("HTTPHeaders", {})
    served = served_at(headers.get("date"))
    if status == 412 and conditional:
        return _AlreadyThere(message)
    if code == "RequestTimeTooSkewed":
        return ClockSkew(f"{message}: this machine's clock is {_skew(served)}", cause="clock skew", hint="set it")
    if code in _CREDENTIAL_CODES or status in (401, 403):
        return CredentialsRefused(message)
    if conditional and status in (400, 501) and code not in _BUSY_CODES:
        return _ConditionUnknown(message)
    if status in (409, 429) or status >= 500 or code in _BUSY_CODES:
        asked_s = retry_after_s(headers.get("retry-after"), served_at=served)
        return Busy(message, cause="captive portal" if status == 511 else f"HTTP {status}", retry_after_s=asked_s)
    if status in _REDIRECTS or status < 300 or code in ("", str(status)):
        return NotTheService(f"{message}, not S3's way to answer", cause="captive portal")
    return SegmentRefused(message, status=status, answer=code)


def _skew(served: datetime) -> str:
    """How wrong our clock is, in words."""
    ahead_s = (datetime.now(timezone.utc) - served).total_seconds()
    return f"{abs(ahead_s) / 60:.0f} minutes {'ahead of' if ahead_s > 0 else 'behind'} S3's"


def _unreachable(error: BaseException, endpoint_url: str | None) -> Unreachable:
    cause = cause_of(error)
    return Unreachable(f"{endpoint_url or 'S3'} cannot be reached ({cause})", cause=cause)
