"""Answers to the clients: any status, headers and body from a real socket, whole, cut off, or no HTTP at all."""

import base64
import gzip
import hashlib
import json
import math
from contextlib import closing
from functools import cache
from typing import Any

from hypothesis import strategies as st

from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.prefix import require_prefix, require_region, require_run_id
from streaming.clients.s3 import ObjectStore
from streaming.clients.sentinel import SentinelApi
from streaming.errors import StreamError
from tests.fuzz.target import Target
from tests.support.listener import Listener
from tests.support.wire import Wire

TOKEN = "canary_TOKEN_of_the_fuzzer"
SECRETS = ("AKIACANARY", "canary/SECRET+key", "canary/SESSION+token")
DEADLINE_S = 10.0
BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHA256 = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
URI = "s3://bucket/run-1/00000001-abc.csv.gz"

odd_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
words = st.one_of(
    st.sampled_from(
        ["", "-1", "0", "12", "9" * 30, "nan", "\x85", TOKEN, *SECRETS, MD5, f'"{MD5}"', SHA256, "gzip", "chunked"]
    ),
    st.sampled_from(["Tue, 24 Nov 2026 10:00:00 GMT", "Tue, 24 Nov 99999 10:00:00 GMT", "2026-11-24T10:00:00Z", "0"]),
    odd_texts,
)
timing = [
    "Date",
    "Retry-After",
    "Connection",
    "Content-Length",
    "Transfer-Encoding",
    "Content-Encoding",
    "Content-Type",
]
meaning = ["Location", "WWW-Authenticate", "ETag", "x-amz-checksum-sha256", "x-amz-bucket-region", "x-amz-request-id"]
header_names = st.sampled_from([*timing, *meaning])
headers = st.lists(st.tuples(header_names, words), max_size=5)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), odd_texts, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner, max_size=3)),
    max_leaves=6,
)
good = st.fixed_dictionaries(
    {},
    optional={
        "run_id": st.one_of(st.just("run-1"), values),
        "upload_uri_prefix": st.one_of(st.just("s3://bucket/run-1"), values),
        "detail": st.one_of(values, st.lists(st.fixed_dictionaries({"loc": st.lists(values, max_size=3)}), max_size=2)),
        "upload_credentials": st.one_of(
            values,
            st.fixed_dictionaries(
                {
                    "access_key": st.one_of(st.just("a"), values),
                    "secret_key": st.just("b"),
                    "session_token": st.just("c"),
                },
                optional={
                    "expires_at": st.one_of(
                        st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"]), words
                    ),
                    "region": st.one_of(st.just("us-east-1"), values),
                },
            ),
        ),
    },
)
codes = st.sampled_from(
    ["NoSuchBucket", "ExpiredToken", "SlowDown", "RequestTimeTooSkewed", "EntityTooLarge", "A&amp;", ""]
)
xml = st.tuples(codes, words, words).map(
    lambda each: (
        f"<?xml version='1.0'?><Error><Code>{each[0]}</Code><Message>{each[1]}</Message><Region>{each[2]}</Region></Error>"
    ).encode("utf-8", "replace")
)
bodies = st.one_of(
    good.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    xml,
    st.binary(max_size=60),
    st.sampled_from([b"", b"[" * 5000, b"<html>log in</html>", b'{"a":' * 3000]),
)
statuses = st.one_of(
    st.sampled_from(
        [200, 200, 200, 201, 204, 301, 302, 307, 400, 401, 403, 404, 409, 410, 412, 413, 422, 429, 500, 503, 511]
    ),
    st.integers(100, 999),
)


def _answer(status: int, given: list[tuple[str, str]], body: bytes, missing: int) -> bytes:
    """On the wire; with `missing` bytes less than the length says."""
    named = {name for name, _ in given}
    length = [] if named & {"Content-Length", "Transfer-Encoding"} else [("Content-Length", str(len(body)))]
    lines = [f"HTTP/1.1 {status} Some", *(f"{name}: {value}" for name, value in [*given, *length])]
    whole = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
    return whole[: len(whole) - missing] if missing else whole


answers = st.one_of(
    st.builds(_answer, statuses, headers, bodies, st.sampled_from([0, 0, 0, 0, 1, 20])),
    st.binary(max_size=80),
)


class FarEnd:
    """Answers whatever is asked with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self.listener = Listener(self._converse)
        self.listener.up()
        url = self.listener.url
        self.service = SentinelApi(TOKEN, base_url=url, deadline_s=DEADLINE_S, read_timeout_s=DEADLINE_S)
        keeper = CredentialKeeper(lambda _run_id: Credentials(*SECRETS, None, "us-east-1"))
        self.store = ObjectStore(keeper, endpoint_url=url, deadline_s=DEADLINE_S, read_timeout_s=DEADLINE_S)

    def close(self) -> None:
        self.service.reset()
        self.store.reset()
        self.listener.close()

    def _converse(self, wire: Wire) -> None:
        with closing(wire):
            wire.read_body(wire.read_head())
            wire.send(self.answer)


@cache
def far_end() -> FarEnd:
    return FarEnd()


def service_answers(answer: bytes) -> None:
    """An answer that can be used, or an error of ours that is fit to be shown."""
    far_end().answer = answer
    service = far_end().service
    calls: tuple[Any, ...] = (
        lambda: service.register({"job_name": "x", "tags": {"a": "b"}}, idempotency_key="k"),
        lambda: service.refresh("run-1"),
        lambda: service.finish("run-1", {"data_source": "inline"}),
    )
    for call in calls:
        try:
            result = call()
        except StreamError as error:
            _require_fit(error, TOKEN)
            continue
        if isinstance(result, tuple):
            registration, credentials = result
            require_run_id(registration.run_id)
            require_prefix(registration.upload_uri_prefix)
            assert credentials.region is None or require_region(credentials.region)
            assert credentials.lifetime_s is None or math.isfinite(credentials.lifetime_s)
        if isinstance(result, dict):
            assert TOKEN not in json.dumps(result)


def s3_answers(answer: bytes) -> None:
    """Stored is what the answer proves, and nothing else."""
    far_end().answer = answer
    try:
        receipt = far_end().store.put("run-1", URI, BODY)
    except StreamError as error:
        _require_fit(error, *SECRETS)
        return
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200")
    assert receipt.etag
    assert MD5.encode() in head or SHA256.lower().encode() in head


def _require_fit(error: StreamError, *secrets: str) -> None:
    """`secrets`: what the client has sent."""
    shown = f"{error} {error.cause} {error!r}"
    assert str(error).isprintable(), shown
    assert not any(secret in shown for secret in secrets), shown
    asked_s = getattr(error, "retry_after_s", None)
    assert asked_s is None or (math.isfinite(asked_s) and asked_s >= 0), asked_s


TARGETS = [Target(answers, service_answers), Target(answers, s3_answers)]
