"""The door to the Sentinel API: register, refresh, finish. The only file that imports requests.

Wire contract as in the class docstrings; every foreign error and every unexpected answer becomes a StreamError here.
Source of the wire: the public clients of the service (resource-tracker 0.5.0 and its Rust sibling).
"""

from __future__ import annotations

import gzip
import json
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import requests
import urllib3

from spool import Registration
from streaming import config
from streaming.clients.credentials import Credentials
from streaming.clients.deadline import DeadlinePassed, deadline
from streaming.clients.http import cause_of, printable, read_capped, retry_after_s, served_at
from streaming.clients.prefix import require_prefix, require_region, require_run_id
from streaming.errors import (
    AlreadyFinished,
    BadArgument,
    Busy,
    NotTheService,
    Refused,
    RunUnknown,
    Unauthorized,
    Unreachable,
)

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
REQUEST_DEADLINE_S = 60.0
ANSWER_MAX_BYTES = 4 << 20
GZIP_FROM_BYTES = 64 << 10
_ACCEPT = {"Accept": "application/json", "Accept-Encoding": "identity"}  # compressed, a small answer could be a bomb
_SHOWN_CHARACTERS = 300
_KEPT_BYTES = 64 << 10
_ABOUT_THE_BODY = {400, 413, 415, 422}  # refusals of what was sent: the same would be refused again
_ABOUT_THE_RUN = {404, 409, 410}  # these too, if they are the service's own JSON. Any other 4xx may pass

log = logging.getLogger(__name__)


class SentinelApi:
    """A client for one token and one base URL. Raises Transient, Unauthorized, Refused and its kinds, nothing else.

    `deadline_s` bounds each request, from connecting to the last byte of the answer.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: str,
        deadline_s: float = REQUEST_DEADLINE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        if not token.isascii() or not token.isprintable():
            raise BadArgument("the token holds characters that no token has", hint="copy it again, without quotes")
        self._token = token
        self._base_url = config.require_safe_url(base_url, "the API URL")
        self._deadline_s = deadline_s
        self._timeout_s = (min(CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s)
        self._session = self._new_session()

    def reset(self) -> None:
        """Drop all connections, e.g. after the machine was suspended."""
        self._session.close()
        self._session = self._new_session()

    def register(self, payload: Mapping[str, Any], *, idempotency_key: str) -> tuple[Registration, Credentials]:
        """POST /runs. The same key again is answered with the same run.

        Keys that a 422 names as forbidden are dropped, once, with a warning: an optional key must not cost the run.
        """
        headers = {"Idempotency-Key": idempotency_key}
        try:
            answer, served = self._post("/runs", payload, headers=headers)
        except RunUnknown as error:
            raise NotTheService(
                f"{self._base_url} does not know how to register a run ({error.status})",
                cause="wrong API URL",
                hint="check SENTINEL_API_URL",
            ) from error
        except Refused as refusal:
            if refusal.status == 409:  # the first request with this key is still being worked on
                raise Busy(refusal.message, cause="HTTP 409") from refusal
            forbidden = _forbidden_keys(refusal) & payload.keys()
            if not forbidden:
                raise
            log.warning("register.keys_dropped: the service does not know %s", ", ".join(sorted(forbidden)))
            kept = {key: value for key, value in payload.items() if key not in forbidden}
            answer, served = self._post("/runs", kept, headers=headers)
        run_id = require_run_id(_text(answer, "run_id"))
        prefix = require_prefix(_text(answer, "upload_uri_prefix"))
        return Registration(run_id, prefix), _credentials(answer, served)

    def refresh(self, run_id: str) -> Credentials:
        """POST /runs/{run_id}/refresh-credentials. A refusal other than RunUnknown is an outage: rows wait, none is lost."""
        try:
            answer, served = self._post(f"/runs/{quote(run_id, safe='')}/refresh-credentials", None)
        except RunUnknown:
            raise
        except Refused as refusal:
            raise Busy(f"no credentials: {refusal.message}", cause=f"HTTP {refusal.status}") from refusal
        return _credentials(answer, served)

    def finish(self, run_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """POST /runs/{run_id}/finish. A large body is sent compressed, and plain once more if that is refused."""
        path = f"/runs/{quote(run_id, safe='')}/finish"
        try:
            try:
                return self._post(path, payload, may_compress=True)[0]
            except Refused as refusal:
                if refusal.status not in (400, 415, 422) or len(_body(payload)) < GZIP_FROM_BYTES:
                    raise
                return self._post(path, payload)[0]
        except Refused as refusal:
            if refusal.status == 409:
                raise AlreadyFinished(refusal.message, status=409, answer=refusal.answer) from refusal
            raise

    def check(self) -> float:
        """GET the base URL: is anybody there? Returns the server's clock minus ours in seconds. For `doctor`."""
        response, _ = self._send("GET", "/", None, {})
        return (served_at(response.headers.get("Date")) - datetime.now(timezone.utc)).total_seconds()

    def check_token(self) -> float:
        """Does the service take our token? Asks it for the credentials of a run that cannot exist; for `doctor`.

        Returns the server's clock minus ours in seconds. Raises Unauthorized, or Transient's kinds.
        """
        path = f"/runs/doctor-{secrets.token_hex(8)}/refresh-credentials"
        response, text = self._send("POST", path, None, {})
        served = served_at(response.headers.get("Date"))
        skew_s = (served - datetime.now(timezone.utc)).total_seconds()
        with suppress(Refused):  # 404: it knows us, and not the run
            _understand(response, text, served)
        return skew_s

    def _post(
        self,
        path: str,
        payload: Mapping[str, Any] | None,
        *,
        headers: Mapping[str, str] | None = None,
        may_compress: bool = False,
    ) -> tuple[dict[str, Any], datetime]:
        """The answer's JSON object, and when the server says it was given."""
        body = None if payload is None else _body(payload)
        all_headers = {"Content-Type": "application/json"} if body is not None else {}
        if body is not None and may_compress and len(body) >= GZIP_FROM_BYTES:
            body = gzip.compress(body, mtime=0)
            all_headers["Content-Encoding"] = "gzip"
        response, text = self._send("POST", path, body, {**all_headers, **(headers or {})})
        # Whatever the answer echoes: the token is in no log line, no error and no file.
        text = text.replace(self._token.encode(), b"[token]")
        served = served_at(response.headers.get("Date"))
        return _understand(response, text, served), served

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[requests.Response, bytes]:
        """One request, its answer read whole within the deadline and the size limit. No redirect is followed."""
        try:
            with (
                deadline(self._deadline_s),
                self._session.request(
                    method,
                    self._base_url + path,
                    data=body,
                    headers={**headers, **_ACCEPT, "Authorization": f"Bearer {self._token}"},
                    timeout=self._timeout_s,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise NotTheService("the answer is compressed, unasked", cause="unexpected answer")
                return response, read_capped(response.iter_content(64 << 10), ANSWER_MAX_BYTES)
        except (requests.RequestException, urllib3.exceptions.HTTPError, DeadlinePassed, OSError, ValueError) as error:
            self.reset()
            cause = cause_of(error)
            raise Unreachable(f"the service {self._base_url} cannot be reached ({cause})", cause=cause) from error

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        # Plain http goes to this machine only, and so never through a proxy that the environment names.
        session.trust_env = self._base_url.startswith("https://")
        session.auth = _KeepAuthorization()  # else requests would take a password for this host from ~/.netrc
        return session


class _KeepAuthorization(requests.auth.AuthBase):
    """Leaves the request as it is; its presence keeps requests from looking into ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _body(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload).encode()


def _understand(response: requests.Response, text: bytes, served: datetime) -> dict[str, Any]:
    """The JSON object of a good answer; the fitting error for any other."""
    status = response.status_code
    if 200 <= status < 300:
        return _json_object(text)
    body = text[:_KEPT_BYTES].decode("utf-8", "replace")
    message = f"the service answered {status}"
    if status in (401, 403):
        raise Unauthorized(
            f"the service refuses the token ({status})",
            hint="set a valid SENTINEL_API_TOKEN and run: tracker-stream drain",
        )
    if status == 429 or status == 408 or status >= 500:
        cause = "captive portal" if status == 511 else f"HTTP {status}"
        asked_s = retry_after_s(response.headers.get("Retry-After"), served_at=served)
        raise Busy(message, cause=cause, retry_after_s=asked_s)
    if status < 400:
        raise NotTheService(f"{message}, a redirect that is not followed", cause="captive portal")
    if status in _ABOUT_THE_RUN:
        _json_object(text)  # a proxy's or portal's own page must not park a run or count as its finish
    elif status not in _ABOUT_THE_BODY:
        raise Busy(message, cause=f"HTTP {status}")
    kind = RunUnknown if status in (404, 410) else Refused
    raise kind(f"{message}: {printable(body, _SHOWN_CHARACTERS)}", status=status, answer=body)


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotTheService("the answer is not JSON, a captive portal perhaps", cause="captive portal") from error
    if not isinstance(answer, dict):
        raise NotTheService("the answer is not a JSON object", cause="unexpected answer")
    return answer


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value:
        raise NotTheService(f"the service's answer has no {key!r}", cause="unexpected answer")
    return value


def _credentials(answer: Mapping[str, Any], served: datetime) -> Credentials:
    given = answer.get("upload_credentials")
    if not isinstance(given, dict):
        raise NotTheService("the service's answer has no 'upload_credentials'", cause="unexpected answer")
    region = given.get("region")
    return Credentials(
        access_key=_text(given, "access_key"),
        secret_key=_text(given, "secret_key"),
        session_token=_text(given, "session_token"),
        lifetime_s=_lifetime_s(given.get("expires_at") or given.get("expiration"), served),
        region=require_region(region) if region else None,
    )


def _lifetime_s(expiry: object, served: datetime) -> float | None:
    """Seconds to an ISO-8601 time by the server's own clock, so that ours may be wrong.

    None if there is no time or it cannot be read: then S3 decides.
    """
    if not isinstance(expiry, str):
        return None
    try:
        at = datetime.fromisoformat(expiry.replace("Z", "+00:00"))
    except ValueError:
        log.warning("credentials.expiry_unreadable: %.40r; they are used until S3 refuses them", expiry)
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return (at - served).total_seconds()


def _forbidden_keys(refusal: Refused) -> set[str]:
    """The top-level keys that a 422 answer names as forbidden."""
    if refusal.status != 422:
        return set()
    try:
        details = json.loads(refusal.answer)["detail"]
        return {
            str(detail["loc"][1])
            for detail in details
            if detail.get("type") == "extra_forbidden" and len(detail["loc"]) == 2 and detail["loc"][0] == "body"
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return set()
