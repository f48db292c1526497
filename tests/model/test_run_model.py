"""A run under every order of appends, feeds, header changes, crashes of either side, faults of the far end, drains.

Real spool, real `delivery.deliver`, real feeder; the far end is in memory. A crash is an exception that nobody catches at
a named step: what the process held is gone, what it had committed stays (that a SIGKILL is no different, and a power
loss neither, is what `tests/faults` shows).
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spool import Batch, RunState, SegmentState, Spool, ownership
from streaming.collect.csv_tail import CsvFeeder
from streaming.errors import StreamError
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from streaming.upload.delivery import Progress
from tests.model.model import HEADERS, Line, Model
from tests.model.profiles import PROFILE
from tests.support import oracle, plays
from tests.support.memory_far_end import DOWN, EXPIRED, FINE, REFUSED, REPLY_LOST, MemoryFarEnd
from tests.support.oracle import Told, split_rows

MEMORY = Path("/dev/shm")
SMALL_SEGMENT_BYTES = 60
PUTS = st.tuples(*[st.sampled_from([FINE, REPLY_LOST, REFUSED, FINE, EXPIRED, DOWN])] * 3)
CALLS = st.tuples(st.sampled_from([FINE, REPLY_LOST, DOWN]))
ENOUGH_ROWS = 4  # before the first end or death: a run without rows has little to lose
STEPS = st.sampled_from(
    [
        *("register:replied", "register:updated", "registered", "seal:inserted", "sealed", "upload:sending"),
        *("upload:replied", "mark:updated", "marked", "finish:sending", "finish:replied", "finish:updated", "finished"),
    ]
)
CRASHES = st.none() | st.tuples(STEPS, st.integers(1, 2))


class Crash(BaseException):
    """The process is gone."""


class Doom:
    """An observer of steps that crashes at the n-th of one name."""

    def __init__(self) -> None:
        self.name, self.left = "", 0

    def __call__(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                raise Crash(name)

    def at(self, crash: tuple[str, int] | None) -> None:
        self.name, self.left = crash or ("", 0)


class RunMachine(RuleBasedStateMachine):
    """Two processes and a file: `self.tracker` appends, each cycle opens the spool as the uploader does."""

    @initialize(by_file=st.booleans(), beginning=st.lists(st.integers(1, 3), min_size=2, max_size=4))
    def begin(self, by_file: bool, beginning: list[int]) -> None:
        """A run that has some rows, under two headers. (Hypothesis leaves out rules at random: also those that add.)"""
        self.place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.model, self.far_end, self.doom = Model(), MemoryFarEnd(), Doom()
        self.csv_path = self.place / "rows.csv" if by_file else None
        if self.csv_path is not None:
            self.csv_path.write_bytes(self.model.header)
        self.tracker: Spool | None = Spool.create(
            self.place / "spools", plays.new_run(csv_path=self.csv_path), step=self.doom
        )
        self.path = self.tracker.path
        self.feeder = self._new_feeder()
        self.is_finished = False
        for number, row_count in enumerate(beginning):
            self._header_becomes(HEADERS[number // 2])
            self._some_rows(row_count)

    def _some_rows(self, row_count: int) -> None:
        if self.csv_path is None:
            self.append(row_count, None)
        else:
            self.write_csv(row_count, cut=False)
            self.feed(None)

    def _new_feeder(self) -> CsvFeeder | None:
        return CsvFeeder(self.tracker, self.csv_path) if self.tracker and self.csv_path else None

    # -- what the program and its tracker do

    @precondition(lambda self: self.model.count % 3 == 2)
    @rule(number=st.integers(0, len(HEADERS) - 1))
    def change_header(self, number: int) -> None:
        self._header_becomes(HEADERS[number])

    def _header_becomes(self, header: bytes) -> None:
        if self.model.header != header and not self.model.unfinished_line:
            self.model.header = header
            self._write(header)

    @precondition(lambda self: self.tracker and not self.model.has_ended and not self.csv_path)
    @rule(row_count=st.integers(1, 4), crash=st.none() | st.sampled_from(["append:inserted", "appended"]))
    def append(self, row_count: int, crash: str | None) -> None:
        rows = self.model.new_rows(row_count)
        assert self.tracker is not None
        crash = crash if self.has_enough() else None
        self.doom.at((crash, 1) if crash else None)
        try:
            self.tracker.append([Batch(self.model.header, b"".join(row for _, row in rows))])
        except Crash:
            self._tracker_is_gone()
        if crash != "append:inserted":
            self.model.take(rows)

    @precondition(lambda self: self.csv_path and not self.model.has_ended)
    @rule(row_count=st.integers(1, 4), cut=st.booleans())
    def write_csv(self, row_count: int, cut: bool) -> None:
        """Rows reach the file, the last perhaps in part; a line that was begun is completed first."""
        self._complete_line()
        rows = self.model.new_rows(row_count)
        if cut:
            _, self.model.unfinished_line = rows.pop()
            self._half = self.model.unfinished_line[:-2]
        self._write(b"".join(row for _, row in rows))
        self.model.written += rows
        if cut:
            self._write(self._half)

    def _complete_line(self) -> None:
        if line := self.model.unfinished_line:
            self._write(line[len(self._half) :])
            self.model.written.append((self.model.header, line))
            self.model.unfinished_line = b""

    def _write(self, csv: bytes) -> None:
        if self.csv_path is not None:
            with self.csv_path.open("ab") as file:
                file.write(csv)

    @precondition(lambda self: self.feeder and not self.model.has_ended)
    @rule(crash=st.none() | st.sampled_from(["feed:read", "append:inserted", "appended"]))
    def feed(self, crash: str | None) -> None:
        assert self.feeder is not None
        crash = crash if self.has_enough() else None
        self.doom.at((crash, 1) if crash else None)
        try:
            self.feeder.take()
        except Crash:
            self._tracker_is_gone()
            if crash != "appended":
                return
        self.model.take_written()

    @precondition(lambda self: self.tracker and not self.model.has_ended and self.has_enough())
    @rule(crash=st.none() | st.sampled_from(["end:updated", "ended"]))
    def end(self, crash: str | None) -> None:
        assert self.tracker is not None
        self._complete_line()
        if self.feeder is not None:
            self.doom.at(None)
            self.feeder.take(is_final=True)
            self.model.take_written()
        self.doom.at((crash, 1) if crash else None)
        try:
            self.tracker.end(exit_code=0, run_status="finished", ended_at=1e9)
        except Crash:
            self._tracker_is_gone()
        if crash != "end:updated":
            self.model.end("finished")

    @precondition(lambda self: self.tracker and self.has_enough())
    @rule()
    def tracker_dies(self) -> None:
        self._tracker_is_gone()

    def has_enough(self) -> bool:
        return len(self.model.taken) >= ENOUGH_ROWS

    def _tracker_is_gone(self) -> None:
        assert self.tracker is not None
        self.tracker.close()
        self.tracker = self.feeder = None

    # -- what the uploader, or another owner, does

    @rule(puts=PUTS, registers=CALLS, finishes=CALLS, crash=CRASHES)
    def cycle(
        self,
        puts: tuple[Any, ...],
        registers: tuple[Any, ...],
        finishes: tuple[Any, ...],
        crash: tuple[str, int] | None,
    ) -> None:
        for kind, outcomes in (("put", puts), ("register", registers), ("finish", finishes)):
            self.far_end.outcomes[kind].extend(outcomes)
        self._as_owner(self._deliver, crash)
        self.far_end.outcomes.clear()

    @rule(crash=CRASHES)
    def drain(self, crash: tuple[str, int] | None) -> None:
        """A second process, on a good day: it ends a run whose tracker is gone."""
        self._as_owner(self._end_if_dead, None)
        self._as_owner(self._deliver, crash)

    @precondition(lambda self: self.tracker and not self.model.has_ended)
    @rule(row_count=st.integers(1, 3), puts=PUTS, crash=CRASHES)
    def interval(self, row_count: int, puts: tuple[Any, ...], crash: tuple[str, int] | None) -> None:
        """What happens most: some rows come, and a cycle of the uploader."""
        self._some_rows(row_count)
        self.cycle(puts, (), (), crash)

    @precondition(lambda self: self.far_end.objects)
    @rule()
    def release(self) -> None:
        self._as_owner(lambda spool: spool.release_sent(), None)

    @precondition(lambda self: self.far_end.put_count > len(self.far_end.objects))
    @rule()
    def try_rejected_again(self) -> None:
        if not self.is_finished:
            self._as_owner(lambda spool: spool.retry_rejected(), None)

    def _as_owner(self, act: Callable[[Spool], object], crash: tuple[str, int] | None) -> None:
        """Open the spool as a process does that begins now, and that may crash."""
        doom = Doom()
        doom.at(crash)
        with ownership.own(self.path):
            spool = Spool(self.path, step=doom)
            try:
                act(spool)
            except (Crash, StreamError):
                pass
            finally:
                self.is_finished = spool.run().state is RunState.FINISHED
                spool.close()

    def _deliver(self, spool: Spool) -> None:
        for segment in spool.seal_pending(SMALL_SEGMENT_BYTES):
            del segment  # sealed in small pieces, so that there is more than one to lose
            break
        delivery.deliver(spool, self.far_end, self.far_end)

    def _end_if_dead(self, spool: Spool) -> None:
        if self.tracker is None and not self.model.has_ended:
            end_dead_run(spool)
            self.model.take_written()
            self.model.end("failed")

    # -- what holds at any time

    @invariant()
    def nothing_is_sent_twice_or_changed(self) -> None:
        assert all(len(set(digests)) == 1 for digests in self.far_end.history.values())
        assert len(self.far_end.runs) <= 1

    @invariant()
    def spool_knows_every_row(self) -> None:
        spool = Spool(self.path)
        try:
            assert spool.run().state is not RunState.OPEN or not self.model.has_ended
            assert reading_counts(spool) == len(self.model.taken)
        finally:
            spool.close()

    def teardown(self) -> None:
        """The faults have stopped: whoever comes next delivers everything, and the oracle agrees."""
        if not hasattr(self, "path"):
            return
        if self.tracker is not None:
            self._tracker_is_gone()
        self._as_owner(self._end_if_dead, None)
        self.far_end.outcomes.clear()
        spool = Spool(self.path)
        try:
            if not self.is_finished:
                spool.retry_rejected()
            assert delivery.deliver(spool, self.far_end, self.far_end) is Progress.COMPLETE
            told = Told(HEADERS[0], self.model.must_be_delivered(set_aside(spool)))
            oracle.judge(self.far_end.evidence(), told, run_status=self.model.status)
        finally:
            spool.close()
            shutil.rmtree(self.place)


def reading_counts(spool: Spool) -> int:
    from spool import queries

    return queries.counts(spool.connection).recorded


def set_aside(spool: Spool) -> list[Line]:
    """The rows of rejected segments: refused by the store for good, still in the spool."""
    lines: list[Line] = []
    for segment in spool.segments(SegmentState.REJECTED):
        header, *rows = split_rows(spool.csv(segment))
        lines += [(header, row) for row in rows]
    return lines


TestRun = pytest.mark.timeout(900)(RunMachine.TestCase)
TestRun.settings = PROFILE
