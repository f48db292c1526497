"""The client of S3: put one object and prove that it is stored.

Stored means: status 200, an ETag, and either our checksum echoed or the ETag being the MD5 of the body. Everything else
is an outage.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError
from urllib3 import exceptions as urllib3_errors

from spool.model import Receipt
from streaming import config
from streaming.clients.boto import KeysOfThisCall, make_client, make_http_session
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.deadline import DeadlinePassed, deadline
from streaming.clients.http import cause_of, is_caused_by, read_capped, remedy
from streaming.clients.neighbours import require_trusted_listener
from streaming.clients.prefix import require_prefix, require_region, split
from streaming.clients.s3_refusals import AlreadyThere, ConditionUnknown, OtherRegion, require_answer_of_s3, understand
from streaming.errors import CredentialsRefused, NotTheService, Unreachable

READ_TIMEOUT_S = 30.0
DEADLINE_S = 60.0
DEADLINE_BYTES_PER_S = 64 << 10  # a slow link may take this much longer: 8 MiB over two minutes
PATIENCE_MAX = 8  # times the deadline, which doubles after each timeout, so that a slow link eventually succeeds
ANSWER_MAX_BYTES = 1 << 20
_FOREIGN_ERRORS = (BotoCoreError, urllib3_errors.HTTPError, DeadlinePassed, OSError, ValueError)

log = logging.getLogger(__name__)


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
        self._clients_lock = threading.Lock()
        self._regions: dict[str, str] = {}  # of buckets, as S3 itself named them
        self._knows_conditions = True
        self._denies_plain_puts = False  # tried once: then it is not the condition that S3 denies
        self._unproven: dict[str, str] = {}  # what each run sent last, if it was not proved: lost replies, mostly

    def keep(self, run_id: str, credentials: Credentials) -> None:
        """Use these credentials for the run, until they are due."""
        self._keeper.keep(run_id, credentials)

    def forget(self, run_id: str) -> None:
        """The run is delivered, or given up."""
        self._keeper.forget(run_id)
        self._unproven.pop(run_id, None)

    def reset(self) -> None:
        """Drop all connections, e.g. after the machine was suspended."""
        for client in [*self._clients.values()]:
            client.reset()

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        """Store `body` (gzip) at `uri`. The same call again is harmless: the key names the content.

        One forced refresh if S3 refuses the credentials.
        """
        credentials = self._keeper.fresh(run_id)
        try:
            return self._put(run_id, uri, body, credentials)
        except CredentialsRefused as refused:
            log.info("credentials.refused: %s; asking for new ones", refused.message)
            renewed = self._keeper.replace_refused(run_id, refused)
        try:
            return self._put(run_id, uri, body, renewed)
        except CredentialsRefused as refused:
            if self._knows_conditions and not self._denies_plain_puts and not refused.is_about_keys:
                return self._put_without_condition(uri, body, renewed)
            raise _credentials_outage(refused) from refused

    def _put_without_condition(self, uri: str, body: bytes, credentials: Credentials) -> Receipt:
        """The last try: a store's rules may allow plain PUTs only, and 403 is all that they answer to others."""
        try:
            receipt = self._attempt(uri, body, credentials)
        except CredentialsRefused as refused:
            self._denies_plain_puts = True
            raise _credentials_outage(refused) from refused
        log.info("upload.plain: the store takes only PUTs without a condition")
        self._knows_conditions = False
        return receipt

    def _put(self, run_id: str, uri: str, body: bytes, credentials: Credentials) -> Receipt:
        """Put only if nothing is there; if something is, put the same bytes over it.

        A 412 alone proves nothing: it says that an object is there, not which one, and we may not look. After a lost
        reply it is ours and is written again, byte for byte; otherwise it is foreign, and only ours may stay.
        """
        try:
            is_repeated = self._unproven.get(run_id) == uri
            receipt = self._put_unless_there(uri, body, credentials, is_repeated=is_repeated)
        except (Unreachable, NotTheService):
            self._unproven[run_id] = uri
            raise
        self._unproven.pop(run_id, None)
        return receipt

    def _put_unless_there(self, uri: str, body: bytes, credentials: Credentials, *, is_repeated: bool) -> Receipt:
        if not self._knows_conditions:
            return self._attempt(uri, body, credentials)
        try:
            return self._attempt(uri, body, credentials, IfNoneMatch="*")
        except AlreadyThere:
            log.log(
                logging.INFO if is_repeated else logging.WARNING,
                "upload.already_there: %s held an object already; it is written again with this run's rows",
                uri,
            )
            return self._attempt(uri, body, credentials)
        except ConditionUnknown:
            receipt = self._attempt(uri, body, credentials)
            self._knows_conditions = False
            return receipt

    def _attempt(self, uri: str, body: bytes, credentials: Credentials, **condition: str) -> Receipt:
        """One PUT; once more where S3 names another region for the bucket."""
        bucket, _ = split(require_prefix(uri))  # a spool from elsewhere may say anything
        try:
            return self._attempt_in(self._region(bucket, credentials), uri, body, credentials, **condition)
        except OtherRegion as other:
            log.info("upload.region: %s", other.message)
            self._regions[bucket] = other.region
        try:
            return self._attempt_in(self._regions[bucket], uri, body, credentials, **condition)
        except OtherRegion as other:
            message = f"{other.message}, though it named {self._regions[bucket]} before"
            raise NotTheService(message, cause="wrong region", hint="the service must name the right one") from other

    def _attempt_in(self, region: str, uri: str, body: bytes, credentials: Credentials, **condition: str) -> Receipt:
        """One PUT within its deadline, and the proof."""
        bucket, key = split(uri)
        require_trusted_listener(self._endpoint_url or "")
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
            secrets = (credentials.access_key, credentials.secret_key, credentials.session_token)
            raise understand(error, conditional=bool(condition), secrets=[each for each in secrets if each]) from error
        except ResponseParserError as error:
            message = "S3's answer cannot be read, a captive portal perhaps"
            raise NotTheService(message, cause="captive portal", hint=remedy("captive portal")) from error
        except _FOREIGN_ERRORS as error:
            self.reset()
            if is_caused_by(error, DeadlinePassed):
                self._patience = min(self._patience * 2, PATIENCE_MAX)
            raise _unreachable(error, self._endpoint_url) from error
        return Receipt(uri, _proof(answer, md5.hexdigest(), sha256))

    def _client(self, region: str) -> _Client:
        with self._clients_lock:
            if region not in self._clients:
                self._clients[region] = _Client(region, self._endpoint_url, self._read_timeout_s)
            return self._clients[region]

    def _region(self, bucket: str, credentials: Credentials) -> str:
        """As S3 named it, else as the service did, else from AWS's own answer; any will do for another store."""
        if bucket in self._regions:
            return self._regions[bucket]
        if credentials.region:
            return credentials.region
        if self._endpoint_url:
            return "us-east-1"
        session = make_http_session(None, read_timeout_s=self._read_timeout_s)
        try:
            with deadline(self._deadline_s):
                self._regions[bucket] = _ask_region(bucket, session)
        except (*_FOREIGN_ERRORS, KeyError) as error:
            raise _unreachable(error, None) from error
        finally:
            session.close()
        return self._regions[bucket]


class _Client:
    """One boto3 client, whose keys are given with each call and whose answers are limited in size. Thread-safe."""

    def __init__(self, region: str, endpoint_url: str | None, read_timeout_s: float) -> None:
        self._keys = KeysOfThisCall()
        self._region = region
        self._endpoint_url = endpoint_url
        self._read_timeout_s = read_timeout_s
        self._session = make_http_session(endpoint_url, read_timeout_s=read_timeout_s)
        self._client = make_client(
            "s3",
            region=region,
            endpoint_url=endpoint_url,
            keys=self._keys,
            read_timeout_s=read_timeout_s,
            is_for_puts=True,
        )
        self._client.meta.events.register("before-send.s3", self._send_capped)

    def reset(self) -> None:
        """Drop all connections. The client itself stays: to make one costs CPU."""
        self._session.close()
        self._session = make_http_session(self._endpoint_url, read_timeout_s=self._read_timeout_s)

    def put(self, credentials: Credentials, **arguments: Any) -> Mapping[str, Any]:
        self._keys.use(credentials.access_key, credentials.secret_key, credentials.session_token)
        answer: Mapping[str, Any] = self._client.put_object(**arguments)
        return answer

    def _send_capped(self, request: Any, **_: Any) -> AWSResponse:
        """Send, and read the answer up to the limit: botocore itself would read whatever comes."""
        request.stream_output = True
        _spell_out(request.headers)
        response = self._session.send(request)
        try:
            response._content = body = read_capped(response.raw.stream(64 << 10), ANSWER_MAX_BYTES)
        except BaseException:
            response.raw.close()  # a half-read connection serves no other request
            raise
        is_custom = self._endpoint_url is not None
        require_answer_of_s3(response.status_code, response.headers, body, asked_in=self._region, is_custom=is_custom)
        return response


def _spell_out(headers: Any) -> None:
    """Header values as text, which botocore leaves as bytes: urllib3 2.8 stumbles over those when a 303 comes, and the
    socket stays open. `Expect` is compared with bytes (`AWSConnection.request`)."""
    for name, value in list(headers.items()):
        if isinstance(value, bytes) and name != "Expect":
            headers[name] = value.decode("latin-1")


def check_reachable(endpoint_url: str | None, *, deadline_s: float) -> None:
    """Does anything that speaks HTTP answer at S3's address? Unsigned, nothing is put; for `doctor`. Raises Unreachable."""
    session = make_http_session(endpoint_url, read_timeout_s=deadline_s)
    request = AWSRequest(method="HEAD", url=f"{endpoint_url or 'https://s3.amazonaws.com'}/").prepare()
    try:
        with deadline(deadline_s):
            session.send(request)
    except _FOREIGN_ERRORS as error:
        raise _unreachable(error, endpoint_url) from error
    finally:
        session.close()


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
    message = f"S3's answer ({status}) does not prove that the object is stored"
    hint = "does SENTINEL_S3_ENDPOINT_URL name an S3? a store must answer a PUT with the object's ETag or checksum"
    raise NotTheService(message, cause="captive portal or broken store", hint=hint)


def _credentials_outage(refused: CredentialsRefused) -> NotTheService:
    message = f"S3 refuses fresh credentials ({refused.message})"
    return NotTheService(message, cause="credentials refused", hint=refused.hint)


def _unreachable(error: BaseException, endpoint_url: str | None) -> Unreachable:
    cause = cause_of(error)
    return Unreachable(f"{endpoint_url or 'S3'} cannot be reached ({cause})", cause=cause, hint=remedy(cause))
