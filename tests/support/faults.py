"""The faults a far end can commit: values that say what is stored, what is read, and how the answer leaves.

    far_end.fail_next("put", faults.reply_lost())
    far_end.always("any", faults.answer(503, retry_after="120"))

A fault with `stores=True` first does what was asked (and the journal says so); only the peer does not learn it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import Enum
from typing import TYPE_CHECKING, Any

from tests.support.wire import Answer, Request

if TYPE_CHECKING:
    from tests.support.object_store import ObjectStore

PORTAL_HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please accept the terms.</body></html>"


class Reading(Enum):
    ALL = "reads the whole request"
    NOTHING = "does not read the body"


class Sending(Enum):
    WHOLE = "sends the answer"
    CLOSE = "closes without an answer"
    RESET = "resets without an answer"
    SILENT = "stays silent"
    TRICKLE = "sends a byte at a time"
    HALF_CLOSE = "half-closes"
    TRUNCATE = "closes amid the answer"


class Gate:
    """Holds a request that the far end has stored and journalled, until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def release(self) -> None:
        self.released.set()


@dataclass(frozen=True)
class Fault:
    """What is done to one request. The default does no harm."""

    name: str
    stores: bool = True
    answer: Answer | None = None
    edit: Callable[[Answer], Answer] | None = None
    prepare: Callable[["ObjectStore", Request], None] | None = None
    reading: Reading = Reading.ALL
    read_budget_bytes: int | None = None
    read_rate_bytes_s: int | None = None
    sending: Sending = Sending.WHOLE
    cut_at_bytes: int = 0
    body_only: bool = False
    interval_s: float = 1.0
    delay_s: float = 0.0
    gate: Gate | None = None


NO_FAULT = Fault("")


# -- answers -----------------------------------------------------------------------------------------------------------


def answer(
    status: int,
    body: bytes | str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    retry_after: str | int | None = None,
    early: bool = False,
) -> Fault:
    """Refuse with this status, by default with the usual error body of that door; `early`: before reading."""
    raw = body.encode() if isinstance(body, str) else body
    extra = {} if retry_after is None else {"Retry-After": str(retry_after)}
    reply = Answer(status, raw, {**(headers or {}), **extra})
    reading = Reading.NOTHING if early else Reading.ALL
    return Fault(f"answer {status}", stores=False, answer=reply, reading=reading)


def http_date(in_s: float) -> str:
    """The time `in_s` seconds from now as HTTP writes it: `answer(503, retry_after=http_date(5))`."""
    return formatdate(time.time() + in_s, usegmt=True)


def json_answer(status: int, content: Any) -> Fault:
    return Fault(f"json answer {status}", stores=False, answer=Answer.of_json(status, content))


def s3_error(code: str, status: int = 403, message: str = "scripted") -> Fault:
    """S3's XML error, e.g. `s3_error("ExpiredToken", 400)`, `s3_error("AccessDenied")`, `s3_error("SlowDown", 503)`."""
    return Fault(f"s3 error {code}", stores=False, answer=error_xml(status, code, message))


def error_xml(status: int, code: str, message: str = "", **fields: str) -> Answer:
    more = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'
    )
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def captive_portal(status: int = 200) -> Fault:
    """200 (or 511) with HTML, as a hotel's network answers anything. Nothing is stored."""
    return Fault("captive portal", stores=False, answer=Answer(status, PORTAL_HTML, {"Content-Type": "text/html"}))


def redirect(location: str, status: int = 302) -> Fault:
    return answer(status, b"", headers={"Location": location})


def not_json(body: bytes = b"OK", status: int = 200) -> Fault:
    reply = Answer(status, body, {"Content-Type": "application/json"})
    return Fault("not JSON", stores=False, answer=reply)


def forbidden_keys(*names: str) -> Fault:
    """422 as the live service's closed schema answers top-level keys that it does not know."""
    return replace(json_answer(422, extra_forbidden(names)), name=f"forbids {', '.join(names)}")


def extra_forbidden(names: tuple[str, ...] | list[str]) -> dict[str, Any]:
    message = "Extra inputs are not permitted"
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": message} for name in names]}


def oversize(size_mb: int, *, declares_length: bool = True) -> Fault:
    """A 200 whose JSON would be fine, were it not `size_mb` MB of blanks."""
    reply = Answer(
        200, b"{" + b" " * (size_mb * 1_000_000) + b"}", {"Content-Type": "application/json"}, declares_length
    )
    return Fault(f"{size_mb} MB answer", stores=False, answer=reply)


# -- edits of the true answer (the request has been obeyed) ------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The true JSON answer, changed in place by `change`: `edited(lambda body: body.pop("run_id"))`."""

    def edit(true: Answer) -> Answer:
        content = json.loads(true.body or b"{}")
        change(content)
        return replace(true, body=json.dumps(content).encode())

    return Fault("edited answer", edit=edit)


def without(*names: str) -> Fault:
    """The true JSON answer, lacking these keys (a dot reaches inside: `upload_credentials.expires_at`)."""

    def drop(body: dict[str, Any]) -> None:
        for name in names:
            *outer, last = name.split(".")
            inner = body
            for step in outer:
                inner = inner[step]
            inner.pop(last, None)

    return replace(edited(drop), name=f"answer without {', '.join(names)}")


def with_fields(**fields: Any) -> Fault:
    """The true JSON answer with these top-level fields in place: `with_fields(upload_uri_prefix="file:///etc")`."""
    return replace(edited(lambda body: body.update(fields)), name=f"answer with {', '.join(fields)}")


def with_headers(**headers: str | None) -> Fault:
    """The true answer with these headers set, or taken away (None); `_` in a name stands for `-`."""
    changes = {name.replace("_", "-").lower(): content for name, content in headers.items()}

    def edit(true: Answer) -> Answer:
        kept = {name: content for name, content in true.headers.items() if name.lower() not in changes}
        return replace(true, headers={**kept, **{name: text for name, text in changes.items() if text is not None}})

    return Fault(f"answer with headers {', '.join(changes)}", edit=edit)


def no_etag() -> Fault:
    """Stored for real, and 200, yet neither ETag nor checksum tells so."""

    def edit(true: Answer) -> Answer:
        return replace(true, headers={"Content-Type": "text/plain"})

    return Fault("no ETag", edit=edit)


def pretended(status: int = 200, headers: Mapping[str, str] | None = None) -> Fault:
    """Nothing is stored, and a bare status says it was: 200 without ETag, 204, or with an ETag of something else."""
    return Fault(f"pretended {status}", stores=False, answer=Answer(status, b"", headers or {}))


def wrong_checksum() -> Fault:
    """Stored for real; ETag and checksum in the answer are those of other bytes."""

    def edit(true: Answer) -> Answer:
        wrong = {name: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" for name in true.headers if "checksum-" in name}
        wrong.pop("x-amz-checksum-type", None)
        return replace(true, headers={**true.headers, **wrong, "ETag": '"00000000000000000000000000000000"'})

    return Fault("wrong checksum", edit=edit)


def occupied(content: bytes = b"somebody else's object") -> Fault:
    """Just before the PUT is looked at, its key comes to hold `content`."""

    def prepare(store: "ObjectStore", request: Request) -> None:
        store.objects[store.uri(request.head)] = content

    return Fault("key occupied", prepare=prepare)


# -- replies that do not arrive ----------------------------------------------------------------------------------------


def reply_lost(*, reset: bool = False) -> Fault:
    """Obeyed and journalled, then closed (or reset) without a byte of answer."""
    return Fault("reply lost", sending=Sending.RESET if reset else Sending.CLOSE)


def silent(*, stores: bool = False) -> Fault:
    """Accepts the request (or, for kind "connect", the connection) and never says a word."""
    return Fault("silent", stores=stores, sending=Sending.SILENT)


def closed(*, reset: bool = False) -> Fault:
    """Hangs up before the body is read."""
    sending = Sending.RESET if reset else Sending.CLOSE
    return Fault("closed before reading", stores=False, reading=Reading.NOTHING, sending=sending)


def cut_upload(after_bytes: int = 1) -> Fault:
    """Reads so many bytes of the body, then resets the connection."""
    return Fault("cut in mid-body", stores=False, read_budget_bytes=after_bytes, sending=Sending.RESET)


def slow_reading(bytes_per_s: int) -> Fault:
    """A slow link: the body is taken at this pace, the rest is as usual."""
    return Fault("slow reading", read_rate_bytes_s=bytes_per_s)


def trickle(*, interval_s: float = 1.0, body_only: bool = False, stores: bool = True) -> Fault:
    """The true answer at one byte per interval, from its first header (or from its body) on."""
    return Fault("trickle", stores=stores, sending=Sending.TRICKLE, interval_s=interval_s, body_only=body_only)


def half_closed(after_bytes: int = 0, *, stores: bool = True) -> Fault:
    """Sends so many bytes of the answer, then FIN, and stays connected.

    With 20 bytes http.client sees a 200 without headers or body; below 12 it sees no answer at all.
    """
    return Fault("half-closed", stores=stores, sending=Sending.HALF_CLOSE, cut_at_bytes=after_bytes)


def truncated(after_bytes: int) -> Fault:
    """Obeyed; the answer ends after so many bytes."""
    return Fault("truncated answer", sending=Sending.TRUNCATE, cut_at_bytes=after_bytes)


def delayed(delay_s: float) -> Fault:
    return Fault("delayed", delay_s=delay_s)


def held(*, stores: bool = True) -> Fault:
    """Obeyed and journalled, then held at `fault.gate` until the test calls `fault.gate.release()`."""
    return Fault("held", stores=stores, gate=Gate())


BY_NAME: dict[str, Callable[..., Fault]] = {
    made.__name__: made
    for made in (
        *(answer, json_answer, s3_error, captive_portal, redirect, not_json, forbidden_keys, oversize, without),
        *(with_fields, with_headers, no_etag, pretended, wrong_checksum, reply_lost, silent, closed, cut_upload),
        *(slow_reading, trickle, half_closed, truncated, delayed),
    )
}
