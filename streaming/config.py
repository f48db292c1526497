"""Names and defaults of the settings, and where they come from. Standard library only: the caller's process reads it."""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import dataclass, field
from pathlib import Path

from streaming.errors import BadArgument

DEFAULT_API_URL = "https://api.sentinel.sparecores.net"
UPLOAD_INTERVAL_S = 60
SPOOL_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 5.0
LINGER_S = 300.0
DEFAULT_KEEP_DAYS = 7.0
LONGEST_WAIT_S = 1e6  # eleven days; poll() counts milliseconds in 32 bits

TOKEN = "SENTINEL_API_TOKEN"
TOKEN_FALLBACK = "SENTINEL_API_KEY"
TOKEN_FILE = "SENTINEL_API_TOKEN_FILE"
API_URL = "SENTINEL_API_URL"
S3_ENDPOINT_URL = "SENTINEL_S3_ENDPOINT_URL"
LINGER = "TRACKER_STREAM_LINGER"
KEEP_DAYS = "TRACKER_STREAM_KEEP_DAYS"
DISCOVER_CLOUD = "TRACKER_DISCOVER_CLOUD"
SEND_HOST_IDENTITY = "TRACKER_SEND_HOST_IDENTITY"

SECRET_VARIABLES = (TOKEN, TOKEN_FALLBACK)


def api_url(given: str | None = None) -> str:
    """The service's base URL: argument, `SENTINEL_API_URL`, default. Raises BadArgument unless it is safe to use."""
    return require_safe_url(given or os.environ.get(API_URL) or DEFAULT_API_URL, "the API URL")


def s3_endpoint_url(given: str | None = None) -> str | None:
    """The S3 endpoint: argument, `SENTINEL_S3_ENDPOINT_URL`, None for AWS. Raises BadArgument unless safe."""
    url = given or os.environ.get(S3_ENDPOINT_URL) or None
    return None if url is None else require_safe_url(url, "the S3 endpoint URL")


def require_safe_url(url: str, what: str) -> str:
    """`url` without trailing slash. Raises BadArgument for anything but https, or http to loopback."""
    hint = "use https:// (http:// only to this machine, 127.0.0.1)"
    scheme, host = _scheme_and_host(url)
    if host and (scheme == "https" or (scheme == "http" and is_loopback(host))):
        return url.rstrip("/")
    raise BadArgument(f"{what} {url!r} cannot be used", hint=hint)


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Of a plain base URL; nothing of one that says more (user, query, fragment) or cannot be read."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        is_plain = url.isprintable() and " " not in url and not (parts.query or parts.fragment or parts.username)
        return (parts.scheme, parts.hostname or "") if is_plain and parts.port != 0 else ("", "")
    except ValueError:
        return "", ""


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine, by its text alone (nothing is looked up)."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Token:
    """The bearer token, and for people where it came from."""

    text: str = field(repr=False)
    source: str


def find_token(token_file: str | None = None) -> Token | None:
    """The token: `SENTINEL_API_TOKEN`, `SENTINEL_API_KEY`, or the content of the token file. None without any.

    Raises BadArgument for a file that cannot be read, and for a token that no header can carry.
    """
    for name in (TOKEN, TOKEN_FALLBACK):
        if text := os.environ.get(name, "").strip():
            return Token(_require_printable(text, name), name)
    path = token_file or os.environ.get(TOKEN_FILE)
    if not path:
        return None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"the token file {path} ({TOKEN_FILE}) cannot be read", hint=str(error)) from error
    return Token(_require_printable(text, path), path) if text else None


def _require_printable(text: str, source: str) -> str:
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    raise BadArgument(f"the token in {source} holds characters that no token has", hint="copy it again, on one line")


def token_from_environment() -> str | None:
    """The token that the environment names, None without one."""
    found = find_token()
    return found.text if found else None


def require_token(token: object) -> str:
    """A token that was given as an argument. Raises BadArgument."""
    if isinstance(token, str) and token.strip() and token.isprintable():
        return token.strip()
    what = "empty" if not token else "not a printable text"
    raise BadArgument(f"the token is {what}", hint=f"give the token of the Sentinel API, e.g. from {TOKEN}")


def wait_s(value: object, name: str, *, least: float = 0.0) -> float:
    """A number of seconds given as an argument, brought between `least` and LONGEST_WAIT_S. Raises BadArgument."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if math.isfinite(number):
        return min(max(least, number), LONGEST_WAIT_S)
    raise BadArgument(f"{name}={value!r} is not a number of seconds", hint="give a number, e.g. 60")


def linger_s() -> float:
    """How long the uploader goes on after the run's end, if the target cannot be reached (seconds)."""
    return seconds(os.environ.get(LINGER), default=LINGER_S, name=LINGER)


def keep_s() -> float:
    """How long a delivered run's spool is kept (seconds; the setting is in days)."""
    return 86_400 * seconds(os.environ.get(KEEP_DAYS), default=DEFAULT_KEEP_DAYS, name=KEEP_DAYS)


def seconds(text: str | None, *, default: float, name: str) -> float:
    """A number from a setting's text. Raises BadArgument naming the setting."""
    if text is None or not text.strip():
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadArgument(f"{name}={text!r} cannot be used", hint="give a number, 0 or more")
    return value
