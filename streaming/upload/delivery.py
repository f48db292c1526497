"""One cycle of delivery: bring one run as far as it can go now. The story of the product on one screen.

Knows no HTTP, no boto3, no sleep, no thread, no clock. The loop around it (the uploader's, `drain`'s, or one that serves
a whole directory) owns waiting, stopping and retrying.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from spool import Registration, Run, RunState, Segment, SegmentState, Spool, directory, queries
from spool.errors import SpoolDamaged
from spool.model import Receipt, iso_utc
from spool.segments import object_key
from spool.spool import SEGMENT_MAX_BYTES
from streaming.clients.credentials import Credentials
from streaming.collect import metadata
from streaming.errors import (
    AlreadyFinished,
    EverythingRefused,
    Parked,
    Refused,
    RunUnknown,
    SegmentRefused,
    SegmentTooLarge,
)

INLINE_MAX_BYTES = 1 << 20
REFUSALS_BEFORE_REJECTION = 3
SMALL_BYTES = 256 << 10
_LEVEL_SMALL = 9  # a minute of rows: as small as the peers', and still well under a millisecond
_LEVEL_LARGE = 6  # a backlog: half the time of level 9 for one or two per cent more bytes
# Written out because zlib's own header differs between Python versions (byte 10): no name, mtime 0, unknown system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Progress(str, Enum):
    """How far a cycle came."""

    COMPLETE = "complete"
    WAITING_FOR_ROWS = "waiting for rows"
    INTERRUPTED = "interrupted"


class Service(Protocol):
    """What delivery needs of the Sentinel API (`streaming.clients.sentinel.SentinelApi`)."""

    def register(self, payload: dict[str, Any], *, idempotency_key: str) -> tuple[Registration, Credentials]: ...
    def finish(self, run_id: str, payload: dict[str, Any]) -> dict[str, Any]: ...


class Store(Protocol):
    """What delivery needs of S3 (`streaming.clients.s3.ObjectStore`)."""

    def keep(self, run_id: str, credentials: Credentials) -> None: ...
    def put(self, run_id: str, uri: str, body: bytes) -> Receipt: ...


@dataclass
class SegmentSize:
    """How large a run's segments become. One that was refused for its size, by a proxy's limit perhaps, halves it."""

    max_bytes: int = SEGMENT_MAX_BYTES


_Refused = tuple[Segment, SegmentRefused]


def deliver(
    spool: Spool,
    service: Service,
    store: Store,
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    size: SegmentSize | None = None,
) -> Progress:
    """Bring one run as far as it can go now. May be killed at any line, may be repeated from the top.

    `may_go_on` is asked between segments; INTERRUPTED if it says no. `size`: as the cycle before left it.
    Raises Transient (try again later), Unauthorized (nobody can help but the user), Parked (this run needs a person).
    """
    run = spool.run()
    if run.state is RunState.FINISHED:
        return Progress.COMPLETE
    if run.parked:
        raise Parked(run.parked, hint=f"to register it anew run: tracker-stream drain --anew {spool.path.stem}")
    registration = ensure_registered(spool, service, store)
    try:
        if run.state is RunState.ENDED and _finish_inline(spool, service, registration, run):
            return Progress.COMPLETE
        if not _upload_all(spool, store, registration, may_go_on, size or SegmentSize()):
            return Progress.INTERRUPTED
        if run.state is not RunState.ENDED:
            return Progress.WAITING_FOR_ROWS
        _finish_uploaded(spool, service, registration, run)
    except RunUnknown as forgotten:
        spool.park(f"the service does not know this run any more ({forgotten.message})")
        raise Parked(str(forgotten)) from forgotten
    return Progress.COMPLETE


def ensure_registered(spool: Spool, service: Service, store: Store) -> Registration:
    """The run's registration. Killed after the reply: the same Idempotency-Key is sent again."""
    run = spool.run()
    if run.registration:
        return run.registration
    try:
        spool.step("register:sending")
        payload = metadata.payload(run, name=directory.short_name(spool.path))
        registration, credentials = service.register(payload, idempotency_key=run.spool_id)
        spool.step("register:replied")
    except Refused as refusal:
        spool.park(f"the service refuses to register this run ({refusal.message})")
        raise Parked(str(refusal)) from refusal
    spool.register(registration)
    store.keep(registration.run_id, credentials)
    return registration


def _upload_all(
    spool: Spool,
    store: Store,
    registration: Registration,
    may_go_on: Callable[[], bool],
    size: SegmentSize,
) -> bool:
    """Upload every segment, in order. One that is refused for good does not hold up the others. False if interrupted."""
    refused: list[_Refused] = []
    sent_count = 0
    is_interrupted = False
    for segment in spool.seal_pending(size.max_bytes):  # fixed for good before the first byte leaves
        if is_interrupted := not may_go_on():
            break
        try:
            sent_count += _upload(spool, segment, store, registration)
        except SegmentRefused as refusal:
            if _is_given_up_for_smaller_ones(spool, segment, refusal):
                size.max_bytes = segment.csv_bytes // 2
                return _upload_all(spool, store, registration, may_go_on, size)
            spool.count_refusal(segment, refusal.message)
            refused.append((segment, refusal))
    if refused:
        left = _judge_refused(spool, store, registration, refused, others_sent=sent_count > 0)
        if left and not (is_interrupted and sent_count):
            why = refused[-1][1]
            message = f"S3 refuses {len(refused)} segment(s) of this run: {why.message}"
            raise EverythingRefused(message, cause=why.code or "refused", hint=why.hint)
    if is_interrupted:
        return False
    # Left only where a lying lock lets another owner work too: it sealed this, and may die before it has sent it.
    return not spool.segments(SegmentState.SEALED) or _upload_all(spool, store, registration, may_go_on, size)


def _is_given_up_for_smaller_ones(spool: Spool, segment: Segment, refusal: SegmentRefused) -> bool:
    """Whether a segment was refused for its size alone, and its rows can be sealed anew. Killed here: they are pending."""
    can_be_smaller = isinstance(refusal, SegmentTooLarge) and segment.first_batch_id < segment.last_batch_id
    return can_be_smaller and spool.unseal_from(segment)


def _upload(spool: Spool, segment: Segment, store: Store, registration: Registration) -> bool:
    """Whether the store took it, or what is readable of it. Killed after the PUT: the same key and bytes again."""
    try:
        body = _compressed(spool, segment)
    except SpoolDamaged:  # killed after recutting it: what is readable is found sealed
        taken = [_upload(spool, readable, store, registration) for readable in spool.recut(segment)]
        return any(taken)
    uri = f"{registration.upload_uri_prefix}/{object_key(segment)}"
    spool.step("upload:sending")
    receipt = store.put(registration.run_id, uri, body)
    spool.step("upload:replied")
    spool.mark_sent(segment, uri=receipt.uri, etag=receipt.etag)
    return True


def _compressed(spool: Spool, segment: Segment) -> bytes:
    """The object's bytes. Raises SpoolDamaged unless they hold exactly what was sealed."""
    return compress(spool.csv_pieces(segment), csv_bytes=segment.csv_bytes)


def _judge_refused(
    spool: Spool, store: Store, registration: Registration, refused: list[_Refused], *, others_sent: bool
) -> bool:
    """Reject what is refused again and again while the store takes other objects; if S3 refuses everything, nothing is.

    Whether something refused is still to be tried again.
    """
    exhausted = [each for each in refused if each[0].refusal_count + 1 >= REFUSALS_BEFORE_REJECTION]
    if exhausted and (others_sent or _takes_a_known_object(spool, store, registration)):
        for segment, why in exhausted:
            count = segment.refusal_count + 1
            spool.reject(segment, f"refused {count} times while other objects went through: {why}")
    seqs = {segment.seq for segment, _ in refused}
    return len(exhausted) < len(refused) or any(each.seq in seqs for each in spool.segments(SegmentState.SEALED))


def _takes_a_known_object(spool: Spool, store: Store, registration: Registration) -> bool:
    """Whether the store takes an object now that it has taken before (its repetition is harmless)."""
    sent = spool.last_sent()
    if sent is None:
        return False
    try:
        store.put(registration.run_id, sent.uri or "", _compressed(spool, sent))
    except (SegmentRefused, SpoolDamaged):
        return False
    return True


def _finish_inline(spool: Spool, service: Service, registration: Registration, run: Run) -> bool:
    """Finish a small run with its rows in the request. False if it does not fit, or the service wants it otherwise."""
    csv = _inline_csv(spool)
    return csv is not None and _finish(spool, service, registration, run, inline=csv)


def _finish_uploaded(spool: Spool, service: Service, registration: Registration, run: Run) -> None:
    """Finish a run whose rows are in S3. If none got there (all were set aside), it finishes without rows."""
    uris = spool.sent_uris()
    if uris or not _finish(spool, service, registration, run, inline=b""):
        _finish(spool, service, registration, run, uris=uris)


def _inline_csv(spool: Spool) -> bytes | None:
    """The whole CSV if it may go with the finish: nothing was sealed yet, it is small, and has one header."""
    if spool.has_segments():
        return None
    waiting = queries.backlog(spool.connection)
    if waiting.csv_bytes > INLINE_MAX_BYTES:
        return None
    try:
        csv = queries.pending_csv(spool.connection)
        if csv is not None:
            csv.decode("utf-8")
    except (SpoolDamaged, UnicodeDecodeError):
        return None
    return csv


def _finish(
    spool: Spool,
    service: Service,
    registration: Registration,
    run: Run,
    *,
    inline: bytes | None = None,
    uris: list[str] | None = None,
) -> bool:
    """Tell the service that the run has ended, and record its answer. Killed after the reply: 409 is success.

    False if the service refuses the inline form, which the S3 form may mend. Raises Parked for any other refusal.
    """
    try:
        spool.step("finish:sending")
        answer = service.finish(registration.run_id, _finish_payload(run, inline, uris))
        spool.step("finish:replied")
    except AlreadyFinished as finished:
        answer = {"already_finished": True, "answer": finished.answer[:1000]}
    except RunUnknown:
        raise
    except Refused as refusal:
        if inline is not None:
            return False
        spool.park(f"the service refuses to finish this run ({refusal.message})")
        raise Parked(str(refusal)) from refusal
    spool.finish(answer)
    return True


def _finish_payload(run: Run, inline: bytes | None, uris: list[str] | None) -> dict[str, Any]:
    """Exactly the keys of the wire contract; the same at every repetition."""
    payload: dict[str, Any] = {
        "run_status": run.run_status,
        "finished_at": iso_utc(run.ended_at or run.started_at),
    }
    if run.exit_code is not None:
        payload["exit_code"] = run.exit_code
    if inline is not None:
        return {**payload, "data_source": "inline", "data_csv": inline.decode("utf-8")}
    return {**payload, "data_source": "s3", "data_uris": uris or []}


def compress(pieces: Iterable[bytes], *, csv_bytes: int) -> bytes:
    """gzip of the pieces (`csv_bytes` in all), the same bytes for the same pieces wherever zlib is the same."""
    level = _LEVEL_SMALL if csv_bytes <= SMALL_BYTES else _LEVEL_LARGE
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc32, size = 0, 0
    compressed = [_HEADER]
    for piece in pieces:
        crc32 = zlib.crc32(piece, crc32)
        size += len(piece)
        compressed.append(compressor.compress(piece))
    return b"".join((*compressed, compressor.flush(), struct.pack("<II", crc32, size & 0xFFFFFFFF)))
