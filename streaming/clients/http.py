"""What both doors need to know of HTTP: why nobody answered, when to come back, how much of an answer to read."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from urllib3 import exceptions as urllib3_errors

from streaming.clients.deadline import DeadlinePassed
from streaming.errors import NotTheService

# The first that fits somewhere in the chain of causes: from the specific to the general.
_CAUSES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("DNS", (socket.gaierror, urllib3_errors.NameResolutionError)),
    ("TLS", (ssl.SSLError, urllib3_errors.SSLError)),
    ("proxy", (urllib3_errors.ProxyError,)),
    ("refused", (ConnectionRefusedError,)),
    ("timeout", (DeadlinePassed, TimeoutError, urllib3_errors.TimeoutError)),
    ("connection lost", (ConnectionError, urllib3_errors.ProtocolError)),
    ("no route", (OSError,)),
)

_REMEDIES = {
    "DNS": "check the address and the name server (is the network up?)",
    "refused": "nothing listens there: check address and port, or start it (tracker-stream server up)",
    "TLS": "check the certificate; for a private authority name its file in SSL_CERT_FILE",
    "TLS: certificate out of date, or this clock wrong": "compare the certificate's dates with this machine's clock",
    "proxy": "check HTTPS_PROXY and NO_PROXY",
    "timeout": "a firewall may drop the packets: check address, proxy and network",
    "no route": "is the network up? check the address",
    "captive portal": "log in to the network first: open any page in a browser",
    "wrong API URL": "is this the address of the service? check SENTINEL_API_URL",
}

_OUT_OF_DATE = {9, 10}  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


def cause_of(error: BaseException) -> str:
    """One or two words for people on why nobody answered: DNS, TLS, proxy, timeout, refused, connection lost, no route."""
    links = list(_chain(error))
    if any(getattr(link, "verify_code", None) in _OUT_OF_DATE for link in links):
        return "TLS: certificate out of date, or this clock wrong"
    for word, kinds in _CAUSES:
        if any(isinstance(link, kinds) and not _is_wrapper(link) for link in links):
            return word
    return "no connection"


def remedy(cause: str) -> str:
    """What a person can do about such a cause; empty where there is nothing but to wait."""
    return _REMEDIES.get(cause, "")


def is_caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether such an error is among those that this one wraps, or is it itself."""
    return any(isinstance(link, kind) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it wraps, by any of the ways in which requests, urllib3 and botocore wrap."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [getattr(link, "reason", None), getattr(link, "original_error", None), link.__cause__]
        waiting += [link.__context__, *(part for part in link.args if isinstance(part, BaseException))]
        waiting.append(getattr(link, "kwargs", {}).get("error"))


def _is_wrapper(link: BaseException) -> bool:
    """Types that say less than what they wrap: requests' are all OSErrors, a NewConnectionError counts as a timeout."""
    return type(link).__module__.startswith("requests") or type(link) is urllib3_errors.NewConnectionError


def retry_after_s(value: str | None, *, served_at: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or HTTP date); None if absent or unreadable.

    A date is the server's: it is measured by the clock that the server showed, `served_at`, as ours may be wrong.
    """
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    at = http_date(value)
    return None if at is None else max(0.0, (at - served_at).total_seconds())


def served_at(date: str | None) -> datetime:
    """The server's clock by its Date header; ours if it does not tell."""
    return http_date(date) or datetime.now(timezone.utc)


def printable(text: str, max_characters: int) -> str:
    """The beginning of a text from outside, fit for a log line and a terminal: no control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:max_characters])


def http_date(value: str | None) -> datetime | None:
    """An HTTP date as aware UTC, None if absent or unreadable."""
    try:
        at = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def read_capped(parts: Iterable[bytes], max_bytes: int) -> bytes:
    """All parts of an answer joined. Raises NotTheService past `max_bytes`."""
    content = bytearray()
    for part in parts:
        content += part
        if len(content) > max_bytes:
            raise NotTheService(f"the answer is larger than {max_bytes >> 20} MiB", cause="unexpected answer")
    return bytes(content)
