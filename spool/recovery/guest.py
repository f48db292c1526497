"""A spool that comes from elsewhere is a guest: it is delivered from a new file of our own, with what proves right of it.

Elsewhere is wherever its tracker did not write it: a copy, a backup, another machine, somebody else. SQLite writes only to
the new file; its tables, ids and pages are ours, whatever the guest's look like. Of a guest's own words none names a file to
read; its registration is kept if it is of plain names, and a segment counts as sent if its object has the one name that it
can have below the run's prefix.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from typing import Any

from spool import directory, key, queries, segments
from spool.database import decode, schema
from spool.database.connection import Connection
from spool.errors import SpoolDamaged
from spool.model import Run, Segment, SegmentState
from spool.recovery import replace as replacement
from spool.recovery import scan
from spool.recovery.scan import Findings, FoundBatch, FoundSegment
from spool.segments import object_key
from spool.spool import Spool

Write = Callable[[Connection, Findings], Any]
_RUN_ID = re.compile(r"(?!\.+$)[A-Za-z0-9._:~@=+/-]{1,200}")
_PREFIX = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9!_.*'()=+@,:&$;~ /-]{1,900}")
_SPOOL_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def is_guest(spool: Spool) -> bool:
    """Whether the file is neither where its tracker wrote it, nor one that was taken in here before."""
    tracker = spool.run().tracker
    if directory.is_original(spool.path, tracker.file_mark):
        return False
    return not key.is_proven(tracker.checked, ["checked", directory.file_mark(spool.path)])


def take_in(spool: Spool, write: Write) -> Any:
    """Put a new file with what proves right of the guest in its place (by `write`). Returns what `write` does.

    Killed at any line: the old file or the whole new one is there. Nobody writes to the old one meanwhile; whoever has it
    open finds by its number that it was replaced. If something was left out, the old file stays beside it.
    """
    directory.make_mark(spool.path.parent)
    with replacement.new_file(spool.path) as new:
        with spool.connection.transaction():
            with closing(Connection(new)) as db:
                report = write(db, _Guest(spool))
            if report.missing:
                report = replace(report, kept_aside=replacement.second_name(spool.path))
            replacement.put_in_place(new, spool.path)
        with suppress(OSError):
            schema.reserve_journal(spool.path)
    return report


class _Guest(Findings):
    """What SQLite reads of a whole file, checked value by value."""

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._db = spool.connection
        self._path = spool.path
        self._is_own = spool.is_own()
        known = spool.run()
        self.run = self._checked_run(known)
        self.segments = scan.without_overlaps(list(self._checked_segments(self.run[15])))

    def _checked_run(self, known: Run) -> list[Any]:
        """The run record: texts and numbers that were decoded, nothing that was not."""
        (raw,) = self._db.query("SELECT token_salt, token_fingerprint, registered_at FROM run")
        salt, fingerprint, registered_at = raw
        is_sealed = isinstance(salt, bytes) and isinstance(fingerprint, str)
        registration = known.registration
        if registration and not (_RUN_ID.fullmatch(registration.run_id) and _is_prefix(registration.upload_uri_prefix)):
            registration = None
        tracker = replace(known.tracker, checked=key.proof(["checked", directory.file_mark(self._path)]))
        return [
            1,
            known.spool_id if _SPOOL_ID.fullmatch(known.spool_id) else schema.new_spool_id(),
            known.state.value,
            json.dumps(asdict(tracker)),
            known.started_at,
            salt if is_sealed else os.urandom(16),
            fingerprint if is_sealed else None,
            json.dumps(known.metadata),
            _json(known.host_info),
            _json(known.cloud_info),
            schema.path_value(known.csv_path) if known.csv_path is not None and self._is_own else None,
            known.api_url,
            None,
            known.upload_interval_s,
            registration and registration.run_id,
            registration and registration.upload_uri_prefix,
            registered_at if registration and isinstance(registered_at, float) else None,
            known.ended_at,
            known.exit_code,
            known.run_status,
            _json(known.finish_answer),
            known.finished_at,
            known.parked,
            None,
            None,
            None,
        ]

    def _checked_segments(self, prefix: str | None) -> Iterator[FoundSegment]:
        known = {each.seq: each for state in SegmentState for each in queries.segments(self._db, state)}
        etags = dict(self._db.query("SELECT seq, etag FROM segment"))
        has_rows = {seq for (seq,) in self._db.query("SELECT seq FROM segment JOIN batch ON batch_id = first_batch_id")}
        for seq, segment in known.items():
            is_stored = segment.state is SegmentState.SENT and segment.uri == f"{prefix}/{object_key(segment)}"
            if segment.state is SegmentState.SENT and not is_stored:
                if seq not in has_rows:
                    continue
                segment = replace(segment, state=SegmentState.SEALED, sent_at=None, uri=None)
            found = FoundSegment(_row(segment, etags[seq] if is_stored else None))
            if found.is_possible():
                yield found

    def headers_by_id(self) -> Iterator[tuple[int, bytes]]:
        rows = self._db.query("SELECT header_id, csv FROM header ORDER BY header_id")
        yield from ((number, csv) for number, csv in rows if isinstance(csv, bytes))

    def batches(self) -> Iterator[FoundBatch]:
        """Those whose checksum fits; never more bytes than the file has, however often its pages name one another."""
        reader = segments.Verifier(self._db)
        left_bytes = self._path.stat().st_size
        facts = {
            number: rest for number, *rest in self._db.query("SELECT batch_id, csv_offset, appended_at FROM batch")
        }
        for batch_id, header_id, row_count, sha256, csv in segments.batches(self._db, 1, max(facts, default=0)):
            left_bytes -= len(csv) if isinstance(csv, (bytes, str)) else 0
            if left_bytes < 0:
                raise SpoolDamaged(f"the spool {self._path} names its pages more than once", path=self._path)
            if reader.damage(header_id, sha256, csv, row_count) is not None:
                continue
            offset, appended_at = facts[batch_id]
            when = decode.time(appended_at, "time of an append", self._path)
            yield batch_id, header_id, row_count, offset if isinstance(offset, int) else None, when, sha256, csv


def _is_prefix(text: str) -> bool:
    return bool(_PREFIX.fullmatch(text)) and ".." not in text and "//" not in text.removeprefix("s3://")


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _row(segment: Segment, etag: object) -> tuple[Any, ...]:
    return (
        segment.seq,
        segment.first_batch_id,
        segment.last_batch_id,
        segment.header_id,
        segment.row_count,
        segment.csv_bytes,
        segment.sha256,
        segment.state.value,
        segment.sealed_at,
        segment.sent_at,
        segment.uri,
        etag if isinstance(etag, str) else None,
        segment.refusal_count,
        segment.reason,
    )
