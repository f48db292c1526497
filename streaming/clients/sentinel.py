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
from streaming.clients.certificates import certificates
from streaming.clients.credentials import Credentials
from streaming.clients.deadline import DeadlinePassed, deadline
from streaming.clients.http import cause_of, printable, read_capped, remedy, retry_after_s, served_at
from streaming.clients.neighbours import require_trusted_listener
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
_LONGEST_PAGE = 400
_ABOUT_THE_BODY = {400, 413, 415, 422}  # refusals of what was sent: the same would be refused again
_ABOUT_THE_RUN = {404, 409, 410}  # these too, if they are the service's own JSON. Any other 4xx may pass
_LONG_TOKEN = 16  # characters. A shorter one may stand in any word, and tells nothing there

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
            raise BadArgument(
                "the token contains characters that a token cannot have", hint="copy it again, without quotes"
            )
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

        Every key is optional, so none may cost the run: whatever a 422 complains about is left out, with a warning.
        """
        offered = dict(payload)
        while True:  # ends: each round offers less, or `tags` in its other shape
            try:
                answer, served = self._offer(offered, idempotency_key)
                break
            except Refused as refusal:
                offered = _without_refused(offered, refusal, payload)
        run_id = require_run_id(self._require_foreign(_text(answer, "run_id")))
        prefix = require_prefix(self._require_foreign(_text(answer, "upload_uri_prefix")))
        page = answer.get("page")  # of our own server only
        is_usable = isinstance(page, str) and len(page) <= _LONGEST_PAGE and self._hidden(page) == page
        return Registration(run_id, prefix, page if is_usable else None), _credentials(answer, served)

    def _offer(self, payload: Mapping[str, Any], idempotency_key: str) -> tuple[dict[str, Any], datetime]:
        """One POST /runs. A refusal that is not about the payload is an outage."""
        try:
            return self._post("/runs", payload, headers={"Idempotency-Key": idempotency_key})
        except RunUnknown as error:
            raise NotTheService(
                f"{self._base_url} does not know how to register a run ({error.status})",
                cause="wrong API URL",
                hint="check SENTINEL_API_URL",
            ) from error
        except Refused as refusal:
            if refusal.status == 409:  # the first request with this key is still being worked on
                raise Busy(refusal.message, cause="HTTP 409") from refusal
            raise

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
        """POST /runs/{run_id}/finish. A large body is sent compressed, and plain once more if that is refused.

        A 200 without a body is an answer, too.
        """
        path = f"/runs/{quote(run_id, safe='')}/finish"
        try:
            try:
                answer, _ = self._post(path, payload, may_compress=True, may_be_empty=True)
            except Refused as refusal:
                if refusal.status not in (400, 415, 422) or len(_body(payload)) < GZIP_FROM_BYTES:
                    raise
                answer, _ = self._post(path, payload, may_be_empty=True)
            return {self._hidden(key): self._hidden(value) for key, value in answer.items()}
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
            self._understand(response, text, served)
        return skew_s

    def _post(
        self,
        path: str,
        payload: Mapping[str, Any] | None,
        *,
        headers: Mapping[str, str] | None = None,
        may_compress: bool = False,
        may_be_empty: bool = False,
    ) -> tuple[dict[str, Any], datetime]:
        """The answer's JSON object, and when the server says it was given."""
        body = None if payload is None else _body(payload)
        all_headers = {"Content-Type": "application/json"} if body is not None else {}
        if body is not None and may_compress and len(body) >= GZIP_FROM_BYTES:
            body = gzip.compress(body, mtime=0)
            all_headers["Content-Encoding"] = "gzip"
        response, text = self._send("POST", path, body, {**all_headers, **(headers or {})})
        served = served_at(response.headers.get("Date"))
        if may_be_empty and response.status_code == 200 and _is_empty(response, text):
            return {}, served
        return self._understand(response, text, served), served

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[requests.Response, bytes]:
        """One request, its answer read whole within the deadline and the size limit. No redirect is followed."""
        require_trusted_listener(self._base_url)
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
                    verify=certificates(self._base_url),
                ) as response,
            ):
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise NotTheService("the answer is compressed, which was not asked for", cause="unexpected answer")
                return response, read_capped(response.iter_content(64 << 10), ANSWER_MAX_BYTES)
        except (requests.RequestException, urllib3.exceptions.HTTPError, DeadlinePassed, OSError, ValueError) as error:
            self.reset()
            cause = cause_of(error)
            message = f"the service {self._base_url} cannot be reached ({cause})"
            raise Unreachable(message, cause=cause, hint=remedy(cause)) from error

    def _understand(self, response: requests.Response, text: bytes, served: datetime) -> dict[str, Any]:
        """The JSON object of a good answer; the fitting error for any other, in which the token is hidden."""
        status = response.status_code
        if 200 <= status < 300:
            return _json_object(text)
        body = text[:_KEPT_BYTES].decode("utf-8", "replace").replace(self._token, "[token]")
        message = f"the service answered {status}"
        if status in (401, 403):
            _require_own_refusal(response, text)
            raise Unauthorized(
                f"the service refuses the token ({status})",
                hint="the rows are kept; get a valid token, set it as SENTINEL_API_TOKEN, then: tracker-stream drain",
            )
        if status == 429 or status == 408 or status >= 500:
            cause = "captive portal" if status == 511 else f"HTTP {status}"
            asked_s = retry_after_s(response.headers.get("Retry-After"), served_at=served)
            raise Busy(_with_detail(message, body), cause=cause, hint=remedy(cause), retry_after_s=asked_s)
        if status < 400:
            raise NotTheService(
                f"{message}, a redirect that is not followed", cause="captive portal", hint=remedy("captive portal")
            )
        if status in _ABOUT_THE_RUN:
            _json_object(text)  # a proxy's or portal's own page must not park a run or count as its finish
        elif status not in _ABOUT_THE_BODY:
            raise Busy(_with_detail(message, body), cause=f"HTTP {status}", hint=remedy("wrong API URL"))
        kind = RunUnknown if status in (404, 410) else Refused
        shown = printable(body, _SHOWN_CHARACTERS)
        raise kind(f"{message}: {shown}", status=status, answer=body, keys=_complained_about(text))

    def _hidden(self, value: Any) -> Any:
        """What the service answered, fit to be kept: it may echo the token."""
        if isinstance(value, str):
            is_long = len(self._token) >= _LONG_TOKEN
            return value.replace(self._token, "[token]") if is_long or value == self._token else value
        if isinstance(value, list):
            return [self._hidden(item) for item in value]
        if isinstance(value, dict):
            return {self._hidden(key): self._hidden(item) for key, item in value.items()}
        return value

    def _require_foreign(self, text: str) -> str:
        """`text`, which will be kept, unless it holds the token. Raises NotTheService then."""
        if self._hidden(text) != text:
            raise NotTheService("the service named an id or prefix that holds the token", cause="unexpected answer")
        return text

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


def _is_empty(response: requests.Response, text: bytes) -> bool:
    """Whether the answer has no body and says so: one that was cut off amid its headers looks the same, and does not."""
    is_told = response.headers.get("Content-Length") == "0" or "Transfer-Encoding" in response.headers
    return not text.strip() and (is_told or bool(text))


def _require_own_refusal(response: requests.Response, text: bytes) -> None:
    """A 401 or 403 of the service is JSON, or names the bearer scheme. Raises NotTheService for a proxy's own page."""
    is_bearer = response.headers.get("WWW-Authenticate", "").lower().startswith("bearer")
    try:
        is_own = is_bearer or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_own = False
    if not is_own:
        status = response.status_code
        raise NotTheService(
            f"{status} comes from something between here and the service, not from it",
            cause="proxy",
            hint=remedy("proxy"),
        )


def _with_detail(message: str, body: str) -> str:
    """With the reason that the service gives, where it is one of ours or speaks as FastAPI does."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return message
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return f"{message}: {printable(detail, _SHOWN_CHARACTERS)}" if isinstance(detail, str) else message


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
        session_token="" if given.get("session_token") == "" else _text(given, "session_token"),  # "": without STS
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


def _complained_about(text: bytes) -> frozenset[str]:
    """The top-level keys of the body that an error answer names, whatever it holds against them."""
    try:
        details = json.loads(text)["detail"]
        places = [detail["loc"] for detail in details]
        return frozenset(
            place[1] for place in places if len(place) > 1 and place[0] == "body" and type(place[1]) is str
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return frozenset()


def _without_refused(offered: Mapping[str, Any], refusal: Refused, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What is offered next. Raises the refusal unless it is a 422 about keys that were offered."""
    refused = refusal.keys & offered.keys()
    if refusal.status != 422 or not refused:
        raise refusal
    left = {key: value for key, value in offered.items() if key not in refused}
    if "tags" in refused and offered["tags"] == payload["tags"]:
        left.update(_tags_in_other_shape(payload["tags"]))
    dropped = sorted(offered.keys() - left.keys())
    if dropped:
        log.warning("register.keys_dropped: the service does not take %s", ", ".join(dropped))
    return left


def _tags_in_other_shape(tags: object) -> dict[str, Any]:
    """The service's two clients send a dict, and a list of "key=value"; nothing, if these tags have only one shape."""
    if isinstance(tags, dict):
        return {"tags": [f"{name}={value}" for name, value in tags.items()]}
    if isinstance(tags, list) and all(isinstance(tag, str) and "=" in tag for tag in tags):
        return {"tags": dict(tag.split("=", 1) for tag in tags)}
    return {}
