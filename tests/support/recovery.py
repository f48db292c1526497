"""After a crash: what the survivors do (a later start, or drain), and what the oracle then says."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from spool import Spool, directory, ownership
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from streaming.upload.delivery import Progress
from tests.support import oracle, plays
from tests.support.clients import Clients
from tests.support.far_end import FarEnd
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Line, Told

BEFORE = 2  # batches in the spool of a dead tracker that tests work on copies of


def connect(far_end: FarEnd) -> Clients:
    return Clients.connect(far_end.token, api_url=far_end.api_url, s3_endpoint_url=far_end.s3_endpoint_url)


def deliver_all(path: Path, far_end: FarEnd) -> None:
    """What the next owner does with a run whose tracker is dead: end it, and deliver it whole."""
    clients = connect(far_end)
    with ownership.own(path), closing(Spool(path)) as spool:
        end_dead_run(spool)
        progress = delivery.deliver(spool, clients.service, clients.store)
    clients.reset()
    assert progress is Progress.COMPLETE


def deliver_from_memory(path: Path, far_end: MemoryFarEnd | None = None) -> MemoryFarEnd:
    """The same without sockets; the far end in memory afterwards."""
    far_end = far_end or MemoryFarEnd()
    with ownership.own(path), closing(Spool(path)) as spool:
        end_dead_run(spool)
        assert delivery.deliver(spool, far_end, far_end) is Progress.COMPLETE
    return far_end


def dead_run(place: Path) -> Path:
    """A spool in `place`, with BEFORE batches, and the file of their acknowledgements."""
    spool = Spool.create(place, plays.new_run())
    with closing(spool):
        for number in range(BEFORE):
            spool.append([plays.batch_of(number)])
    (place / "acks").write_text("".join(f"{number}\n" for number in range(BEFORE)))
    return spool.path


def acknowledged(acks: Path) -> list[int]:
    """The numbers of the batches whose append returned, as the child wrote them down."""
    return [int(line) for line in acks.read_text().split()] if acks.exists() else []


def told(acks: Path, *, up_to: int) -> Told:
    """What the oracle may expect of batches 0 to `up_to`: those acknowledged, and perhaps the one after them."""
    sure = acknowledged(acks)
    next_one = len(sure)
    maybe = [next_one] if next_one < up_to else []
    return Told(plays.HEADERS[0], lines(sure), lines(maybe))


def lines(numbers: Sequence[int]) -> list[bytes | Line]:
    return [(plays.header_of(number), plays.rows_of(number)) for number in numbers]


def judge(far_end: FarEnd, told_by_test: Told, **expected: object) -> None:
    """The oracle's verdict on the only run of this far end."""
    oracle.judge(far_end.evidence(), told_by_test, **expected)  # type: ignore[arg-type]


def only_spool(spool_dir: Path) -> Path:
    (path,) = directory.spool_paths(spool_dir)
    return path
