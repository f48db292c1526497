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
from datetime import datetime
from typing import Any

import pyarrow as pa

from streaming import config
from streaming.clients.certificates import certificates
from streaming.clients.neighbours import require_trusted_listener
from streaming.errors import BadArgument, NotTheService, Unauthorized, Unreachable
from streaming.read.sources import RunFacts, Source
from streaming.tables.csv_text import parse_columns, split_header
from streaming.tables.schema import Kinds, typed

_AT_ONCE = 1000
_TIMEOUT_S = 120.0


class ServerSource(Source):
    """Those that the token may see. The rows of the run asked for last are kept: they came as one CSV."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = config.require_safe_url(url, "the server's address").rstrip("/")
        self._token = token or config.token_from_environment()
        self._kept: tuple[str, bytes] | None = None

    def runs(self) -> list[RunFacts]:
        found: list[RunFacts] = []
        while True:
            page = self._page(offset=len(found))
            found.extend(page)
            if len(page) < _AT_ONCE:
                return found

    def _page(self, *, offset: int) -> list[RunFacts]:
        answer = self._get(f"/runs?sort=registered_at&limit={_AT_ONCE}&offset={offset}")
        try:
            return [_facts(line) for line in json.loads(answer)["runs"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise NotTheService(
                f"{self._url} answers something else than a list of runs", cause="unexpected answer"
            ) from error

    def schema(self, name: str) -> pa.Schema:
        kinds = Kinds()
        kinds.learn(parse_columns(*split_header(self._csv(name))))
        return kinds.schema

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        yield typed(parse_columns(*split_header(self._csv(name)), schema.names), schema)

    def _csv(self, name: str) -> bytes:
        if self._kept is None or self._kept[0] != name:
            self._kept = (name, self._get(f"/runs/{urllib.parse.quote(name)}/csv"))
        return self._kept[1]

    def _get(self, path: str) -> bytes:
        if self._token is None:
            raise BadArgument(f"{self._url} asks for a token", hint="give token=..., or set SENTINEL_API_TOKEN")
        require_trusted_listener(self._url)
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "gzip"}
        request = urllib.request.Request(self._url + path, headers=headers)
        try:
            with _opener(self._url).open(request, timeout=_TIMEOUT_S) as answer:
                body: bytes = answer.read()
                return gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, self._url) from error
        except (OSError, EOFError, http.client.HTTPException, zlib.error) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(
                f"{self._url} does not answer ({reason})", cause="unreachable", hint="is it up?"
            ) from error


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
    given = ("job_name", "project_name", "stage_name", "task_name", "team", "tags")
    return RunFacts(
        run=line["run_id"],
        state=line["state"],
        started_at=_seconds(line["started_at"]),
        ended_at=_seconds(line["ended_at"]),
        duration_s=line["duration_s"],
        exit_code=line["exit_code"],
        row_count=line["row_count"],
        metadata={name: line[name] for name in given if line[name]} | {"host_hostname": line["host"]},
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
