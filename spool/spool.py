"""The spool of one run: the few operations that change its state, each one transaction.

What holds, always:

* A run goes open -> ended -> finished and never back. A segment goes sealed -> sent, or sealed -> rejected.
  A batch is pending until a segment reaches up to it; segments are consecutive, so `batch_id` alone decides.
* `append` is the tracker's (or, once the tracker is dead, whoever owns the delivery). `seal_pending`, `mark_sent`,
  `reject`, `register`, `finish`, `park` belong to the owner of the delivery (`ownership.own`). `end` is the
  tracker's, or the owner's on behalf of a dead tracker.
* If two owners work at once because a file system's locks lie: a batch still gets into one segment only
  (UNIQUE ranges: the second seal fails and is read again), a segment's key and bytes are the same for both,
  and every mark is idempotent.

What survives:

* A killed process: every transaction whose call returned; of the one under way all or nothing, by the rollback
  journal. Nothing is buffered in the process.
* A killed machine: the same. COMMIT returns after the journal, the database and the zeroed journal header were
  synced, in that order; a new file's directory entry is synced before the first append.
* A full disk: the append raises SpoolFull and leaves no trace; marking sent overwrites a page in place, and the
  persistent journal already has the room it needs. `release_sent` turns sent batches into room for new ones, and an
  ended run keeps some pages for its delivery (`space`).
* A flipped bit: every batch carries the sha256 of its header and rows, verified when it is sealed and when it is
  read. A batch that fails is set aside as a rejected segment of its own; its sequence number tells of the gap.

A segment's number, range and sha256 are committed before the first byte of it leaves this machine, and never change.
One that the store refused for its size is given up as a whole, and its rows are sealed anew under later numbers.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from spool import directory, key, queries, segments, space, trust
from spool.database import decode, schema
from spool.database.connection import Connection
from spool.errors import CsvTaken, RunEnded, SpoolError, SpoolFull, SpoolUnavailable
from spool.model import Batch, Doubt, NewRun, Registration, Run, RunState, Segment, SegmentState, Tracker

SEGMENT_MAX_BYTES = 8 << 20
Step = Callable[[str], None]
Result = TypeVar("Result")


def no_step(_name: str) -> None:
    """The default observer of steps: does nothing. Tests pass one that kills the process.

    Every point at which dying would leave something half done has a name: `noun:verbed` before the commit or the
    record of a reply, `verbed` after it. Whoever works on a spool (delivery, feeder) tells the spool's own observer.
    """


class Spool:
    """One run's spool. Threads may share it; a forked copy may not use it (ForkedSpool)."""

    def __init__(self, path: Path, *, step: Step = no_step, clock: Callable[[], float] = time.time) -> None:
        """Open an existing spool. Raises NoSuchRun, SpoolRefused, NewerSchema, SpoolDamaged, SpoolUnavailable."""
        trust.require_trustworthy(path)
        self.path = path
        self.step = step
        self._clock = clock
        self._db = schema.open_checked(path)
        self._mark = directory.file_mark(path)
        self._known_header: tuple[dict[bytes, int], int] = ({}, 0)  # the newest one's id, and in which generation
        self._attempted_batch_id = 0
        self._doubt: Doubt | None = None
        self.marked_count = 0  # segments marked sent through this handle: progress, for whoever retries

    @classmethod
    def create(
        cls,
        in_directory: Path,
        new: NewRun,
        *,
        first: Sequence[Batch] = (),
        csv_offset: int | None = None,
        step: Step = no_step,
        clock: Callable[[], float] = time.time,
    ) -> Spool:
        """A new spool for a new run, durable when this returns; with these batches from its first moment on.

        Raises DirectoryUnusable and other SpoolErrors."""
        directory.prepare(in_directory)
        path = directory.new_spool_path(in_directory, new.started_at)
        new = replace(new, tracker=replace(new.tracker, file_mark=directory.file_mark(path)))
        try:
            schema.create_file(path, new, first=first, csv_offset=csv_offset)
        except BaseException:
            directory.remove(path)
            raise
        step("created")
        return cls(path, step=step, clock=clock)

    def close(self) -> None:
        """Release the file. Harmless twice."""
        self._db.close()

    # -- the tracker's side

    def append(
        self, batches: Sequence[Batch], *, csv_offset: int | None = None, csv_offset_before: int | None = None
    ) -> None:
        """Append batches in one transaction; durable when this returns.

        `csv_offset`: bytes of the run's CSV file that are taken over with these rows; if given, it must be
        `csv_offset_before` now. Rows that S3 holds make way on a full disk. Raises RunEnded, CsvTaken, SpoolFull,
        SpoolUnavailable: then the rows are not acknowledged, and appending them again, alone or with more rows behind
        them, does not double them.
        """
        try:
            self._append(batches, csv_offset, csv_offset_before)
        except SpoolFull:
            if not self.release_sent():
                raise
            self._append(batches, csv_offset, csv_offset_before)
        except SpoolUnavailable as error:
            if not self.was_removed():
                raise
            raise RunEnded(self.path, left=batches, csv_offset=csv_offset) from error
        self.step("appended")

    def _append(self, batches: Sequence[Batch], csv_offset: int | None, offset_before: int | None) -> None:
        doubt = self._doubt
        if doubt is not None:
            self._db.reopen()
            batches = self._settle(doubt, batches)
            if not batches:
                return
        try:
            self._insert(batches, csv_offset, offset_before)
        except RunEnded:
            self._doubt = doubt  # whoever tries again with the same rows is told the same
            raise
        except SpoolError as error:
            if not isinstance(error, (SpoolUnavailable, SpoolFull)) or self._attempted_batch_id == 0:
                raise
            self._doubt = Doubt(tuple(batches), self._attempted_batch_id)
            self._db.reopen()
            if self._settle(self._doubt, batches):
                raise

    def _settle(self, doubt: Doubt, batches: Sequence[Batch]) -> list[Batch]:
        """What of `batches` is still to be appended after an I/O error in COMMIT. Raises SpoolError while nobody knows.

        Rows that can be read may yet be lost with the power: the failed sync was their last. A commit that comes
        through makes them durable (the journal and its header are written and synced anew).
        """
        rest = list(batches)
        if doubt.last_batch_id <= queries.last_batch_id(self._db):
            with self._db.transaction() as db:
                db.execute("UPDATE batch SET appended_at = ? WHERE batch_id = ?", (self._clock(), doubt.last_batch_id))
            rest = doubt.without_repetition(batches)
        self._doubt = None
        return rest

    def _insert(self, batches: Sequence[Batch], csv_offset: int | None, offset_before: int | None) -> None:
        self._attempted_batch_id = 0
        with self._db.transaction() as db:
            (state,) = db.execute("SELECT state FROM run").fetchone()
            if state != RunState.OPEN.value:
                raise RunEnded(self.path, left=batches, csv_offset=csv_offset)
            if offset_before not in (None, self.csv_offset()):
                raise CsvTaken("another process takes over rows of the same file", path=self.path)
            now = self._clock()
            known, generation = self._known_header
            if generation != self._db.generation:
                known = {}
            for batch in batches:
                if batch.header not in known:
                    known = {batch.header: schema.insert_header(db, batch.header)}
                self._attempted_batch_id = schema.insert_batch(
                    db, batch, known[batch.header], csv_offset=csv_offset, appended_at=now
                )
            self.step("append:inserted")
        self._known_header = (known, self._db.generation)  # not before: the header may have been rolled back

    def take_over(self, by: Tracker) -> None:
        """Another process appends from now on; its death is the run's end."""
        run = self.run()
        self._keep_tracker(self._proven(replace(run, tracker=run.tracker.continued_by(by))))

    def beat(self) -> None:
        """Let other hosts see that the tracker lives, though it has no rows now."""
        self._keep_tracker(replace(self.run().tracker, heartbeat_at=self._clock()))

    def add_lost_rows(self, count: int) -> None:
        """Keep in mind that so many more rows of the run could not be kept."""
        self._keep_tracker(replace(self.run().tracker, lost_row_count=self.run().tracker.lost_row_count + count))

    def _proven(self, run: Run) -> Tracker:
        """The tracker of the run as it shall be, with a new proof that it is this user's own if there was one before."""
        return schema.proven(run.tracker, run.spool_id, run.csv_path, run.api_url) if self.is_own() else run.tracker

    def _keep_tracker(self, tracker: Tracker) -> None:
        self._update("UPDATE run SET tracker = ?", (json.dumps(asdict(tracker)),))

    def end(self, *, exit_code: int | None, run_status: str, ended_at: float) -> bool:
        """Record the run's end: exit code (None: unknown), "finished" or "failed", and when. The first call counts.

        False if another end was recorded before.
        """
        end = (RunState.ENDED.value, exit_code, run_status, ended_at, RunState.OPEN.value)
        try:
            is_first = self._end(end)
        except SpoolUnavailable:  # a sync that fails once must not cost the exit code: nobody comes back to tell it
            self._db.reopen()
            is_first = self._end(end)
        self.step("ended")
        space.shrink_if_small(self._db, journal_bytes=space.SMALL_JOURNAL_BYTES, step=self.step)
        run = self.run()
        return bool(is_first) or (run.exit_code, run.run_status) == (exit_code, run_status)

    def was_removed(self) -> bool:
        """Whether others took the run for over and removed its file: the directory is the same as before, and there."""
        return not self.path.exists() and directory.file_mark(self.path) == self._mark != ""

    def _end(self, end: tuple[object, ...]) -> int:
        sql = "UPDATE run SET state = ?, exit_code = ?, run_status = ?, ended_at = ?{} WHERE state = ?"
        try:
            return self._update_once(sql.format(f", finish_answer = {space.KEPT_ROOM}"), end, step="end:updated")
        except SpoolFull:
            return self._update(sql.format(""), end, step="end:updated")

    # -- the uploader's side

    def register(self, registration: Registration) -> None:
        """Keep the service's answer to register. A later registration (of a parked run) replaces the former."""
        self._update(
            "UPDATE run SET run_id = ?, upload_uri_prefix = ?,"
            " finish_answer = printf('%-*s', coalesce(length(finish_answer), 0), ?), registered_at = ?, parked = NULL",
            (*registration.kept, self._clock()),
            step="register:updated",
        )
        self.step("registered")

    def describe(self, *, host_info: dict[str, Any], cloud_info: dict[str, Any]) -> None:
        """Keep what was discovered about host and cloud, where the caller gave nothing."""
        self._update(
            "UPDATE run SET host_info = coalesce(host_info, ?), cloud_info = coalesce(cloud_info, ?)",
            (json.dumps(host_info), json.dumps(cloud_info)),
        )

    def seal_pending(self, max_bytes: int = SEGMENT_MAX_BYTES) -> Iterator[Segment]:
        """Segments to upload, in order: those sealed earlier, then what is pending now, sealed one by one.

        Each is fixed for good, and durable, before it is yielded. Damaged batches are set aside on the way.
        """
        yield from self.segments(SegmentState.SEALED)
        last_batch_id = queries.last_batch_id(self._db)
        while (candidate := segments.next_range(self._db, last_batch_id, max_bytes)) is not None:
            segment = self._seal(candidate)
            if segment is not None and segment.state is SegmentState.SEALED:
                yield segment

    def _seal(self, candidate: segments.Range) -> Segment | None:
        """Fix a range as a segment; None if another owner was faster (a lying lock), which is no harm."""
        seq = self._with_room(lambda: self._seal_once(candidate))
        self.step("sealed")
        return None if seq is None else queries.segment(self._db, seq)

    def _seal_once(self, candidate: segments.Range) -> int | None:
        with self._db.transaction() as db:
            seq = segments.seal(db, candidate, now=self._clock())
            self.step("seal:inserted")
        return seq

    def recut(self, segment: Segment, max_bytes: int = SEGMENT_MAX_BYTES) -> list[Segment]:
        """What can still be sent of a sealed segment whose rows are not those that were sealed; the rest is rejected."""
        seqs = self._with_room(lambda: segments.recut(self._db, segment, now=self._clock(), max_bytes=max_bytes))
        self.step("recut")
        return [queries.segment(self._db, seq) for seq in seqs]

    def unseal_from(self, segment: Segment) -> bool:
        """Give up a segment that the store refused for its size, and all later ones, as `segments.unseal_from`."""
        return self._with_room(lambda: segments.unseal_from(self._db, segment))

    def csv(self, segment: Segment) -> bytes:
        """The segment's CSV, header line first: exactly the bytes that were sealed. Raises SpoolDamaged otherwise."""
        return b"".join(self.csv_pieces(segment))

    def csv_pieces(self, segment: Segment) -> Iterator[bytes]:
        """The same in pieces, always the same ones. Raises SpoolDamaged after the last one: use none before that."""
        return segments.segment_csv(self._db, segment)

    def mark_sent(self, segment: Segment, *, uri: str, etag: str) -> None:
        """Record the proof of storage: S3 answered with this ETag for exactly the sealed bytes."""
        self._update(
            "UPDATE segment SET state = ?, sent_at = ?, uri = ?, etag = ?, reason = NULL WHERE seq = ? AND sha256 = ?",
            (SegmentState.SENT.value, self._clock(), uri, etag, segment.seq, segment.sha256),
            step="mark:updated",
        )
        self.step("marked")
        self.marked_count += 1

    def count_refusal(self, segment: Segment, reason: str) -> None:
        """Count one more refusal of this segment for good by the store."""
        counting = "UPDATE segment SET refusal_count = refusal_count + 1, reason = ? WHERE seq = ?"
        self._update(counting, (reason, segment.seq))

    def reject(self, segment: Segment, reason: str) -> None:
        """Set a segment aside, with its rows, because the store refuses it and takes others."""
        self._update(
            "UPDATE segment SET state = ?, reason = ? WHERE seq = ? AND state = ?",
            (SegmentState.REJECTED.value, reason, segment.seq, SegmentState.SEALED.value),
            step="reject:updated",
        )
        self.step("rejected")

    def retry_rejected(self) -> int:
        """Put segments that the store refused back among the sealed ones (not damaged ones). Returns how many."""
        return self._update(
            "UPDATE segment SET state = ?, refusal_count = 0 WHERE state = ? AND refusal_count > 0",
            (SegmentState.SEALED.value, SegmentState.REJECTED.value),
        )

    def finish(self, answer: dict[str, Any]) -> None:
        """Record that the service acknowledged the finish, with its answer if that can be kept and read again."""
        sql = (
            "UPDATE run SET state = ?, finished_at = ?, parked = NULL, problem = NULL, problem_cause = NULL,"
            " finish_answer = ? WHERE state = ?"
        )
        facts, kept = (RunState.FINISHED.value, self._clock()), json.dumps(answer if decode.is_shallow(answer) else {})
        try:
            self._update(sql, (*facts, kept, RunState.ENDED.value), step="finish:updated")
        except SpoolFull:
            self._update(sql, (*facts, "{}", RunState.ENDED.value), step="finish:updated")
        self.step("finished")
        space.shrink_if_small(self._db, journal_bytes=0, step=self.step)

    def park(self, reason: str) -> None:
        """Set the run aside until a person decides: the service has forgotten it. Its rows stay."""
        self._update("UPDATE run SET parked = ?", (reason,), step="park:updated")
        self.step("parked")

    def unpark(self) -> None:
        """Forget the lost registration, so that the run is registered anew under a new idempotency key.

        What was sent below the old prefix is sent again below the new one: the new run needs all its objects.
        """
        run = replace(self.run(), spool_id=schema.new_spool_id())
        tracker = json.dumps(asdict(self._proven(run)))
        with self._db.transaction() as db:
            db.execute(
                "UPDATE run SET run_id = NULL, upload_uri_prefix = NULL, registered_at = NULL, parked = NULL,"
                " spool_id = ?, tracker = ?",
                (run.spool_id, tracker),
            )
            db.execute(
                "UPDATE segment SET state = ?, sent_at = NULL, uri = NULL, etag = NULL WHERE state = ?",
                (SegmentState.SEALED.value, SegmentState.SENT.value),
            )

    def readdress(self, api_url: str, s3_endpoint_url: str | None) -> None:
        """The user's word: the run goes to another service than it was recorded for. What the first one has stays there."""
        self.unpark()
        tracker = json.dumps(asdict(self._proven(replace(self.run(), api_url=api_url))))
        readdressing = "UPDATE run SET api_url = ?, s3_endpoint_url = ?, tracker = ?"
        self._update(readdressing, (api_url, s3_endpoint_url, tracker))

    def note_problem(self, problem: str | None, *, cause: str | None = None) -> None:
        """Keep what stands in the way of delivery now, and its cause in a word; None when nothing does. Best effort."""
        if self._db.query("SELECT problem FROM run")[0][0] == problem:
            return
        noting = "UPDATE run SET problem = ?, problem_cause = ?, problem_at = ?"
        with suppress(SpoolFull):  # nothing makes way for a note
            self._update_once(noting, (problem, cause, self._clock()))

    def release_sent(self) -> int:
        """Delete some batches that S3 holds; `export` then tells that they are only there. Returns how many went."""
        return space.release_sent(self._db, step=self.step)

    def _update(self, sql: str, parameters: Sequence[Any], *, step: str = "") -> int:
        """One statement in a transaction of its own, durable when this returns. Returns how many rows it changed."""
        return self._with_room(lambda: self._update_once(sql, parameters, step=step))

    def _update_once(self, sql: str, parameters: Sequence[Any], *, step: str = "") -> int:
        with self._db.transaction() as db:
            cursor = db.execute(sql, parameters)
            if step:
                self.step(step)
        return cursor.rowcount

    def _with_room(self, transaction: Callable[[], Result]) -> Result:
        """Run a transaction; on a full disk again, with the room that was kept for it, and of rows that S3 holds."""
        for make_room in (lambda: space.give_up_kept_room(self._db, self.step), self.release_sent):
            try:
                return transaction()
            except SpoolFull:
                make_room()
        return transaction()

    # -- damage

    @property
    def generation(self) -> int:
        """How often the file was replaced by a recovered one since it was opened: what was read from it may be gone."""
        return self._db.generation

    # -- what anybody may ask

    def run(self) -> Run:
        return queries.run(self._db)

    def segments(self, state: SegmentState) -> list[Segment]:
        return queries.segments(self._db, state)

    def sent_uris(self) -> list[str]:
        """`s3://` URIs of all sent segments, in the order of their rows."""
        return queries.sent_uris(self._db)

    def last_sent(self) -> Segment | None:
        """The newest segment that S3 holds."""
        return queries.last_sent(self._db)

    def has_segments(self) -> bool:
        """Whether anything was ever sealed."""
        return bool(self._db.query("SELECT EXISTS (SELECT 1 FROM segment)")[0][0])

    def last_header(self) -> bytes | None:
        """The header line of the newest batch, None without any."""
        return queries.last_header(self._db)

    def csv_offset(self) -> int:
        """How many bytes of the run's CSV file are already in the spool."""
        return queries.csv_offset(self._db)

    def is_meant_for(self, token: str) -> bool:
        """Whether the run was recorded with this token (compared by a salted fingerprint, in constant time)."""
        salt, fingerprint = self._db.query("SELECT token_salt, token_fingerprint FROM run")[0]
        is_known = isinstance(fingerprint, str) and isinstance(salt, bytes)
        return is_known and hmac.compare_digest(fingerprint.encode(), schema.fingerprint(salt, token).encode())

    def is_own(self) -> bool:
        """Whether this user's tracker wrote where the rows' CSV file lies, and nobody changed that since."""
        return key.is_own(self.run())

    @property
    def connection(self) -> Connection:
        """For `queries` and `recovery`."""
        return self._db
