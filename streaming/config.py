"""The settings: names, defaults, what each may hold, and what the environment says. Standard library only: the caller's
process reads it.

A value that the caller gives (an argument, a flag) and that cannot be used is the caller's mistake: BadArgument. What the
environment or a file holds may not keep a program from running: it costs one warning, and the run is recorded.
"""

from __future__ import annotations

import functools
import logging
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from streaming.errors import BadArgument

log = logging.getLogger(__name__)

DEFAULT_API_URL = "https://api.sentinel.sparecores.net"
UPLOAD_INTERVAL_S = 60
SPOOL_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 30.0
HEARTBEAT_S = 60.0  # a tracker without rows shows at least this often that it lives
EXIT_TIMEOUT_S = 5.0
HURRY_S = 20.0  # how long the uploader goes on after SIGTERM
LINGER_S = 300.0
LINGER_IN_A_JOB_S = 30.0  # a site wants its nodes back
DEFAULT_KEEP_DAYS = 7.0
LONGEST_WAIT_S = 1e6  # eleven days; poll() counts milliseconds in 32 bits

TOKEN = "SENTINEL_API_TOKEN"
TOKEN_FALLBACK = "SENTINEL_API_KEY"
TOKEN_FILE = "SENTINEL_API_TOKEN_FILE"
API_URL = "SENTINEL_API_URL"
S3_ENDPOINT_URL = "SENTINEL_S3_ENDPOINT_URL"
LINGER = "TRACKER_STREAM_LINGER"
KEEP_DAYS = "TRACKER_STREAM_KEEP_DAYS"
SERVER_USER = "TRACKER_STREAM_SERVER_USER"  # who else may run the service on this machine that gets our token
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
    return _read_token(path, TOKEN_FILE) if path else None


def _read_token(path: str, source: str) -> Token | None:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadArgument(f"the token file {path} ({source}) cannot be read", hint=str(error)) from error
    return Token(_require_printable(text, path), path) if text else None


def _require_printable(text: str, source: str) -> str:
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    raise BadArgument(
        f"the token in {source} contains characters that a token cannot have", hint="copy it again, on one line"
    )


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
    usual = LINGER_IN_A_JOB_S if "SLURM_JOB_ID" in os.environ else LINGER_S
    return _usable_seconds(LINGER, usual, otherwise=usual)


def keep_s() -> float:
    """How long a delivered run's spool is kept (seconds; the setting is in days): for ever if that cannot be understood."""
    return 86_400 * _usable_seconds(KEEP_DAYS, DEFAULT_KEEP_DAYS, otherwise=math.inf)


def _usable_seconds(name: str, default: float, *, otherwise: float) -> float:
    try:
        return seconds(os.environ.get(name), default=default, name=name)
    except BadArgument as error:
        warn_once(str(error))
        return otherwise


@functools.lru_cache(maxsize=32)
def warn_once(text: str) -> None:
    """A setting of the environment that cannot be used is told once in a process."""
    log.warning("setting.unusable: %s", text)


def seconds(text: str | None, *, default: float, name: str) -> float:
    """A number from a setting's text, `default` if there is none. Raises BadArgument naming the setting."""
    return default if text is None or not text.strip() else _number(text, name, least=0.0)


def _number(text: str, name: str, *, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise BadArgument(f"{name}={text!r} cannot be used", hint=f"give a number of seconds, {least:g} or more")
    return value


@dataclass(frozen=True)
class Target:
    """Where a run's rows go. Without a token they are recorded only, and `why_local` says why."""

    token: str | None = field(repr=False)
    api_url: str
    s3_endpoint_url: str | None
    why_local: str = ""


def target(token: str | None = None, given_api_url: str | None = None, given_s3_url: str | None = None) -> Target:
    """The target of the arguments, filled up from the environment.

    Raises BadArgument for an argument. A setting of the environment costs one warning: rows that nobody knows where to
    send are recorded, and sent nowhere.
    """
    token = None if token is None else require_token(token)
    for url, what in ((given_api_url, "the API URL"), (given_s3_url, "the S3 endpoint URL")):
        if url:
            require_safe_url(url, what)
    try:
        found = token or token_from_environment()
        why_local = "" if found else f"no {TOKEN}"
        return Target(found, api_url(given_api_url), s3_endpoint_url(given_s3_url), why_local)
    except BadArgument as error:
        return local_target(str(error))


def local_target(unusable: str) -> Target:
    """Nowhere, because a setting cannot be used; told once."""
    warn_once(f"{unusable}; the run is recorded only, and delivered later (tracker-stream drain)")
    return Target(None, DEFAULT_API_URL, None, why_local=unusable)


class Mode(str, Enum):
    """Deliver if there is a token, only record, or do nothing but run the command."""

    AUTO = "auto"
    OFFLINE = "offline"
    DISABLED = "disabled"


class Kind(str, Enum):
    """What a setting holds."""

    TEXT = "a text"
    SECONDS = "a number of seconds"
    SWITCH = "true or false"
    TAGS = "a table of texts"
    MODE = "auto, offline or disabled"
    URL = "an https:// address"
    TOKEN_FILE = "the path of a file that holds a token"


_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Setting:
    """One setting. `name` is its key in the TOML file; its flag is the same word unless `flags` says otherwise.

    `describes_run`: it says what the run is, so that also a file which nobody named may hold it.
    """

    name: str
    variable: str
    help: str
    kind: Kind = Kind.TEXT
    default: str | float | bool | None = None
    flags: tuple[str, ...] = ()
    least: float = 0.0
    describes_run: bool = False

    @property
    def flag(self) -> str:
        return self.flags[0] if self.flags else "--" + self.name.replace("_", "-")

    def parse(self, text: str, source: str) -> Any:
        """The value of a flag's or variable's text. Raises BadArgument naming `source`."""
        if self.kind is Kind.SECONDS:
            return _number(text, source, least=self.least)
        if self.kind is Kind.TAGS:
            return parse_tags(text, source)
        if self.kind is Kind.URL:
            return require_safe_url(text, source)
        if self.kind is Kind.TOKEN_FILE:
            _read_token(text, source)
        elif self.kind is Kind.SWITCH and text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        elif self.kind is Kind.SWITCH or (self.kind is Kind.MODE and text not in [mode.value for mode in Mode]):
            raise BadArgument(f"{source}={text!r} cannot be used", hint=f"it takes {self.kind.value}")
        return text

    def check(self, value: Any, source: str) -> Any:
        """A value of a TOML file as `parse` gives it. Raises BadArgument naming `source`."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = {
            Kind.SECONDS: is_number,
            Kind.SWITCH: isinstance(value, bool),
            Kind.TAGS: isinstance(value, dict) and all(isinstance(text, str | int | float) for text in value.values()),
        }.get(self.kind, isinstance(value, str) or is_number)
        if not is_right:
            shown = reprlib.repr(value)  # it may be nested as deeply as whoever wrote the file likes
            raise BadArgument(f"{source} = {shown} cannot be used", hint=f"it takes {self.kind.value}")
        if self.kind is Kind.TAGS:
            return {str(key): str(text) for key, text in value.items()}
        return self.parse(str(value), source)


def _describing(name: str, text: str, flags: tuple[str, ...] = ()) -> Setting:
    return Setting(name, f"TRACKER_{name.upper()}", text, flags=flags, describes_run=True)


METADATA = (
    _describing("job_name", "Name of the job.", ("--job-name", "-n")),
    _describing("project_name", "Project that the run belongs to."),
    _describing("stage_name", "Stage of the pipeline."),
    _describing("task_name", "Task within the stage."),
    _describing("team", "Team that runs the job."),
    _describing("env", "Environment, e.g. dev or prod."),
    _describing("language", "Programming language of the job."),
    _describing("orchestrator", "What started the job, e.g. slurm; detected if not given."),
    _describing("executor", "What executes the job, e.g. kubernetes."),
    _describing("external_run_id", "The scheduler's id of the run; detected if not given."),
    _describing("container_image", "Container image that the job runs in."),
)
METADATA_NAMES = tuple(setting.name for setting in METADATA)
_HOST_NAMES = ("host_hostname", "host_name", "host_id", "cloud_instance_type")
TAGS = Setting("tags", "TRACKER_TAGS", "A tag; may be repeated.", Kind.TAGS, flags=("--tag",), describes_run=True)
INTERVAL = Setting(
    "interval", "TRACKER_INTERVAL", "Time between two samples.", Kind.SECONDS, 1.0, ("--interval", "-i"), 0.01, True
)
UPLOAD_INTERVAL = Setting(
    "upload_interval",
    "TRACKER_UPLOAD_INTERVAL",
    "Time between two uploads.",
    Kind.SECONDS,
    UPLOAD_INTERVAL_S,
    describes_run=True,
)
EXIT_WAIT = Setting(
    "exit_wait",
    "TRACKER_STREAM_EXIT_WAIT",
    "How long to wait for delivery after the command has ended; 2 s where nothing answers.",
    Kind.SECONDS,
    STOP_TIMEOUT_S,
)
MODE = Setting("mode", "TRACKER_STREAM_MODE", "auto, offline (record only) or disabled.", Kind.MODE, Mode.AUTO.value)
QUIET = Setting(
    "quiet",
    "TRACKER_QUIET",
    "Print nothing but the command's own output.",
    Kind.SWITCH,
    False,
    ("--quiet", "-q"),
)
SAMPLING = (INTERVAL, UPLOAD_INTERVAL, EXIT_WAIT, MODE, QUIET)
SPOOL_DIR = Setting("spool_dir", "TRACKER_STREAM_DIR", "Directory that runs are kept in.")
DELIVERY = (
    Setting("token_file", TOKEN_FILE, "File that holds the token.", Kind.TOKEN_FILE),
    Setting("api_url", API_URL, "Address of the service.", Kind.URL, DEFAULT_API_URL),
    Setting("s3_endpoint_url", S3_ENDPOINT_URL, "Endpoint of an S3 other than AWS.", Kind.URL),
)
RECORDING = (*METADATA, TAGS, *SAMPLING, SPOOL_DIR, *DELIVERY)
BY_NAME = {setting.name: setting for setting in RECORDING}


def host_of(metadata: Mapping[str, Any]) -> Any:
    """What is known best of where a run ran; None if nothing is."""
    return next((metadata[name] for name in _HOST_NAMES if metadata.get(name)), None)


def parse_tags(text: str, source: str) -> dict[str, str]:
    """`k=v,k=v` as a mapping. Raises BadArgument naming `source`."""
    tags = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BadArgument(f"{source}: {part!r} is not KEY=VALUE", hint="e.g. fold=3,seed=7")
        tags[key.strip()] = value.strip()
    return tags


@dataclass(frozen=True)
class Found:
    """Settings by name, and of those that cannot be used what is wrong with them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)


def environment(chosen: Iterable[Setting]) -> Found:
    """What the environment says of the chosen settings; an empty variable says nothing."""
    values, unusable = {}, {}
    for setting in chosen:
        if text := os.environ.get(setting.variable, "").strip():
            try:
                values[setting.name] = setting.parse(text, setting.variable)
            except BadArgument as error:
                unusable[setting.name] = str(error)
    return Found(values, unusable)
