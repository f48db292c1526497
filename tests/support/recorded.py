"""Recorded runs to be delivered, and a drain that does not really wait between two attempts."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spool import Batch, NewRun, Run, Spool, Tracker
from streaming.clients.credentials import CredentialKeeper
from streaming.clients.s3 import ObjectStore
from streaming.clients.sentinel import SentinelApi
from streaming.upload.model import Outcome
from tests.support import oracle
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.runs import dead_tracker
from tests.support.turns import GaveUp, drain_run

HEADER = b"timestamp,x\n"
STARTED_AT = 1_700_000_000.0


def rows(first: int, count: int) -> bytes:
    return b"".join(b"%d,%d\n" % (number, number * number) for number in range(first, first + count))


@dataclass(frozen=True)
class Recorded:
    """A spool, and what the oracle expects of it."""

    path: Path
    told: Told

    def run(self) -> Run:
        with closing(Spool(self.path)) as spool:
            return spool.run()

    def judge(self, far_end: FarEnd, **expected: Any) -> None:
        """The oracle's verdict, with a properly ended run's expectations."""
        oracle.judge(far_end.evidence(), self.told, **{"run_status": "finished", "exit_code": 0, **expected})


def record(
    spool_dir: Path,
    far_end: FarEnd,
    *,
    segments: int = 1,
    rows_each: int = 3,
    is_sealed: bool = True,
    has_ended: bool = True,
    tracker: Tracker | None = None,
    clock: Callable[[], float] | None = None,
) -> Recorded:
    """A run of so many segments, sealed (and so never finished inline) unless told otherwise; ended, unless not."""
    new = NewRun(
        tracker=tracker or dead_tracker(),
        started_at=STARTED_AT,
        token=far_end.token,
        metadata={"job_name": "faults"},
        host_info={},
        cloud_info={},
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )
    batches = [rows(number * rows_each, rows_each) for number in range(segments)]
    with closing(Spool.create(spool_dir, new, **({"clock": clock} if clock else {}))) as spool:
        for batch in batches:
            append(spool, batch, is_sealed=is_sealed)
        if has_ended:
            spool.end(exit_code=0, run_status="finished", ended_at=STARTED_AT + 60)
    return Recorded(spool.path, Told(HEADER, batches))


def append(spool: Spool, batch: bytes, *, is_sealed: bool = True) -> None:
    spool.append([Batch(HEADER, batch)])
    if is_sealed:
        list(spool.seal_pending())


class Waits:
    """A pause that keeps what it was asked for instead of waiting. `then` may act before the next attempt.

    Its time is over after `at_most` waits.
    """

    def __init__(self, *, at_most: int = 30, then: Callable[[int], None] = lambda _count: None) -> None:
        self.asked_s: list[float] = []
        self._at_most = at_most
        self._then = then

    def wait(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        if len(self.asked_s) > self._at_most:
            raise GaveUp("the test has seen enough attempts")
        self._then(len(self.asked_s))

    def has_time(self) -> bool:
        return True


def connect(
    far_end: FarEnd,
    *,
    token: str | None = None,
    deadline_s: float = 20.0,
    read_timeout_s: float = 10.0,
    clock: Callable[[], float] | None = None,
) -> Clients:
    """Both doors, with the deadlines and the credentials' clock of the test's choice."""
    service = SentinelApi(
        token or far_end.token, base_url=far_end.api_url, deadline_s=deadline_s, read_timeout_s=read_timeout_s
    )
    keeper = CredentialKeeper(service.refresh, **({"clock": clock} if clock else {}))
    endpoint = far_end.s3_endpoint_url
    return Clients(
        service, ObjectStore(keeper, endpoint_url=endpoint, deadline_s=deadline_s, read_timeout_s=read_timeout_s)
    )


def drain(
    recorded: Recorded, far_end: FarEnd, waits: Waits | None = None, *, clients: Clients | None = None, **options: Any
) -> Outcome:
    """`drain` of one run, in this process. Without `clients`, with new ones, as each call of the command has."""
    doors = clients or connect(far_end)
    try:
        return drain_run(
            recorded.path, doors, waits or Waits(), api_url=far_end.api_url, token=far_end.token, **options
        )
    finally:
        doors.reset()


def problems(recorded: Recorded, far_end: FarEnd, waits: Waits, **options: Any) -> tuple[Outcome, Sequence[str]]:
    """The outcome of a drain, and the causes it named on the way."""
    named: list[str] = []
    outcome = drain(
        recorded, far_end, waits, report=lambda problem: named.append(problem.cause) if problem else None, **options
    )
    return outcome, named
