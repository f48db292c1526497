"""The runs of a server, by its API."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from streaming import config
from streaming.clients.certificates import certificates
from streaming.clients.deadline import deadline
from streaming.clients.neighbours import require_trusted_listener
from streaming.errors import BadArgument, NotTheService, Unauthorized, Unreachable
from streaming.read.sources import RunFacts, Source
from streaming.tables.csv_text import parse_columns, split_header
from streaming.tables.schema import Kinds, typed

_AT_ONCE = 1000
_RUNS_MAX = 1_000_000
_SILENCE_S = 120.0
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class _Bound:
    """What an answer may be at most, however far it was squeezed, and until when it must be there."""

    plain_bytes: int
    whole_s: float


_PAGE = _Bound(64 * 2**20, whole_s=300.0)
_CSV = _Bound(2**31 - 2, whole_s=3600.0)  # more is not read as one CSV: Arrow counts bytes in 32 bits


class ServerSource(Source):
    """Those that the token may see. The rows of the run asked for last are kept: they came as one CSV."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = config.require_safe_url(url, "the server's address").rstrip("/")
        self._token = token or config.token_from_environment()
        self._kept: tuple[str, bytes] | None = None

    def runs(self) -> list[RunFacts]:
        found: list[RunFacts] = []
        while len(found) < _RUNS_MAX:
            page = self._page(offset=len(found))
            found.extend(page)
            if len(page) < _AT_ONCE:
                return found
        raise NotTheService(f"{self._url} lists more than {_RUNS_MAX:,} runs", cause="unexpected answer")

    def _page(self, *, offset: int) -> list[RunFacts]:
        answer = self._get(f"/runs?sort=registered_at&limit={_AT_ONCE}&offset={offset}", _PAGE)
        try:
            return [_facts(line) for line in json.loads(answer)["runs"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise NotTheService(
                f"{self._url} answers something other than a list of runs", cause="unexpected answer"
            ) from error

    def schema(self, name: str) -> pa.Schema:
        kinds = Kinds()
        kinds.learn(parse_columns(*split_header(self._csv(name))))
        return kinds.schema

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        yield typed(parse_columns(*split_header(self._csv(name)), schema.names), schema)

    def _csv(self, name: str) -> bytes:
        if self._kept is None or self._kept[0] != name:
            self._kept = (name, self._get(f"/runs/{urllib.parse.quote(name)}/csv", _CSV))
        return self._kept[1]

    def _get(self, path: str, bound: _Bound) -> bytes:
        if self._token is None:
            raise BadArgument(f"{self._url} asks for a token", hint="give token=..., or set SENTINEL_API_TOKEN")
        require_trusted_listener(self._url)
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "gzip"}
        request = urllib.request.Request(self._url + path, headers=headers)
        try:
            with deadline(bound.whole_s), _opener(self._url).open(request, timeout=_SILENCE_S) as answer:
                return self._plain(answer, bound)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, self._url) from error
        except (OSError, EOFError, http.client.HTTPException, zlib.error) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(
                f"{self._url} does not answer ({reason})", cause="unreachable", hint="is it up?"
            ) from error

    def _plain(self, answer: http.client.HTTPResponse, bound: _Bound) -> bytes:
        """The body, as it was before it was squeezed. Raises NotTheService as soon as it is too long."""
        is_squeezed = answer.headers.get("Content-Encoding") == "gzip"
        stream: Any = gzip.GzipFile(fileobj=answer) if is_squeezed else answer
        body = bytearray()
        while piece := stream.read(_PIECE_BYTES):
            body += piece
            if len(body) > bound.plain_bytes:
                raise NotTheService(
                    f"{self._url} answers more than {bound.plain_bytes:,} bytes",
                    cause="unexpected answer",
                    hint="a run as large as that: ask a spool directory, a bucket or a lake",
                )
        if answer.length:  # a read in pieces does not tell
            raise http.client.IncompleteRead(b"", answer.length)
        return bytes(body)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Never by a proxy to this machine itself; with the certificates that every client trusts; to no other place."""
    is_here = config.is_loopback(urllib.parse.urlsplit(url).hostname or "")
    trusted = certificates(url)
    context = ssl.create_default_context(cafile=trusted if isinstance(trusted, str) else None)
    handlers = (urllib.request.HTTPSHandler(context=context), _NoRedirect())
    return urllib.request.build_opener(*handlers, *([urllib.request.ProxyHandler({})] if is_here else []))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would take the token along, wherever it is sent."""

    def redirect_request(self, *_: object) -> None:
        """None: the redirect itself is the answer, an error."""


def _refusal(error: urllib.error.HTTPError, url: str) -> Exception:
    if error.code == 401:
        return Unauthorized(f"{url} refuses the token", hint="is it one of this server?")
    try:
        detail = str(json.loads(error.read(10_000))["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        detail = "no words"
    return NotTheService(f"{url} answers {error.code}: {detail}", cause=f"HTTP {error.code}")


def _facts(line: dict[str, Any]) -> RunFacts:
    """Raises TypeError and the like for what does not fit."""
    given = ("job_name", "project_name", "stage_name", "task_name", "team", "tags")
    return RunFacts(
        run=_of(line["run_id"], str),
        state=_of(line["state"], str),
        started_at=_seconds(line["started_at"]),
        ended_at=_seconds(line["ended_at"]),
        duration_s=_of(line["duration_s"], float, int, type(None)),
        exit_code=_of(line["exit_code"], int, type(None)),
        row_count=_of(line["row_count"], int, type(None)),
        metadata={name: line[name] for name in given if line[name]} | {"host_hostname": line["host"]},
    )


def _of(value: Any, *kinds: type) -> Any:
    """The value, a small one of these kinds. Raises TypeError, OverflowError."""
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r:.100} is none of {kinds}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise OverflowError("a number of more than 64 bits")
    return value


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
