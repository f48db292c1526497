"""What children of the nursery do: the tracker's and the uploader's part, with the product's own functions.

A play that appends writes the number of each batch whose append has returned to the file `acks`: what is written there
survives a SIGKILL, and is what the oracle takes as acknowledged.
"""

import os
import pickle
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from spool import Batch, NewRun, Spool, SpoolError, directory, ownership, system
from spool.database import connection
from streaming.collect.csv_tail import CsvFeeder
from streaming.errors import Unreachable
from streaming.processes import engine_socket
from streaming.upload import delivery
from streaming.upload.engine import Engine
from tests.support.clients import Clients
from tests.support.memory_far_end import MemoryFarEnd

Step = Callable[[str], None]
HEADERS = (b"timestamp,x\n", b"timestamp,x,y\n")
TOKEN = "canary-token-of-the-plays"


def header_of(number: int) -> bytes:
    """The header of batch `number`: it changes at every third."""
    return HEADERS[number // 3 % 2]


def rows_of(number: int, row_count: int = 3, *, width: int = 0) -> bytes:
    """The rows of batch `number`: recognisable, and of a length that varies."""
    filling = b"x" * (width + number % 7)
    columns = header_of(number).count(b",")
    cells = [b"%d.%d" % (number, row) + b"," + filling + b",9" * (columns - 1) for row in range(row_count)]
    return b"".join(line + b"\n" for line in cells)


def batch_of(number: int, *, width: int = 0) -> Batch:
    return Batch(header_of(number), rows_of(number, width=width))


def new_run(*, token: str = TOKEN, csv_path: Path | None = None) -> NewRun:
    """A run of the process that asks."""
    return NewRun(
        tracker=system.identify(os.getpid()),
        started_at=time.time(),
        token=token,
        host_info={},
        cloud_info={},
        csv_path=None if csv_path is None else str(csv_path),
    )


def perform(order: dict[str, Any], step: Step) -> None:
    PLAYS[order["play"]](order, step)


def warm_up() -> None:
    """Import, and let boto3 read its models, once and for all children."""
    clients = Clients.connect("none", api_url="http://127.0.0.1:9", s3_endpoint_url="http://127.0.0.1:9")
    with suppress(Unreachable):
        clients.service.finish("none", {})
    from streaming.clients.boto import KeysOfThisCall, make_client

    url = "http://127.0.0.1:9"  # whose store is asked for only where somebody listens
    make_client("s3", region="us-east-1", endpoint_url=url, keys=KeysOfThisCall(), read_timeout_s=1, is_for_puts=True)


def _record(order: dict[str, Any], step: Step) -> None:
    """Create a spool in the directory `spool`, append batches, end the run."""
    spool = Spool.create(Path(order["spool"]), new_run(), step=step)
    with closing(spool):
        _append_all(spool, order)
        spool.end(exit_code=0, run_status="finished", ended_at=time.time())


def _append(order: dict[str, Any], step: Step) -> None:
    """Append batches to the spool that is there."""
    with closing(Spool(Path(order["spool"]), step=step)) as spool:
        _append_all(spool, order)


def _append_all(spool: Spool, order: dict[str, Any]) -> None:
    acks = os.open(order["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(*order["batches"]):
        spool.append([batch_of(number, width=order.get("width", 0))])
        os.write(acks, b"%d\n" % number)
    os.close(acks)


def _append_persistently(order: dict[str, Any], step: Step) -> None:
    """As the tracker does: rows that could not be appended wait, and go with those that come after them."""
    acks = os.open(order["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    waiting: list[int] = []
    with closing(Spool(Path(order["spool"]), step=step)) as spool:
        for number in range(*order["batches"]):
            waiting.append(number)
            for _ in range(order.get("tries", 1)):
                if _took(spool, waiting):
                    os.write(acks, b"".join(b"%d\n" % each for each in waiting))
                    waiting.clear()
                    break
    os.close(acks)
    assert not waiting, f"{waiting} never came through"


def _took(spool: Spool, numbers: list[int]) -> bool:
    rows = b"".join(rows_of(number) for number in numbers)
    try:
        spool.append([Batch(header_of(numbers[0]), rows)])
    except SpoolError:
        spool.step("refused")
        return False
    return True


def _feed(order: dict[str, Any], step: Step) -> None:
    """Take over a CSV file."""
    with closing(Spool(Path(order["spool"]), step=step)) as spool:
        CsvFeeder(spool, Path(order["csv_path"])).take(is_final=True)
        spool.end(exit_code=0, run_status="finished", ended_at=time.time())


def _deliver(order: dict[str, Any], step: Step) -> None:
    """Deliver what is there as its owner, segments of a few batches each."""
    path = Path(order["spool"])
    clients = Clients.connect(order["token"], api_url=order["api_url"], s3_endpoint_url=order["s3_endpoint_url"])
    with ownership.own(path), closing(Spool(path, step=step)) as spool:
        delivery.deliver(spool, clients.service, clients.store)


def _serve(order: dict[str, Any], step: Step) -> None:
    """As an engine: all the runs of the directory `spool` that are ordered. Every spool that it opens tells its steps."""
    os.environ["TMPDIR"] = order["tmp_dir"]
    Spool.__init__.__kwdefaults__["step"] = step
    claim = engine_socket.claim(engine_socket.socket_name(Path(order["spool"])))
    assert claim is not None
    engine = Engine(Path(order["spool"]))
    engine.listen(claim)
    engine.serve()


def _release(order: dict[str, Any], step: Step) -> None:
    with closing(Spool(Path(order["spool"]), step=step)) as spool:
        spool.release_sent()


def _remove(order: dict[str, Any], step: Step) -> None:
    directory.remove(Path(order["spool"]), step=step)


def _end(order: dict[str, Any], step: Step) -> None:
    with closing(Spool(Path(order["spool"]), step=step)) as spool:
        spool.end(exit_code=7, run_status="failed", ended_at=time.time())


def _live(order: dict[str, Any], step: Step) -> None:
    """A whole life in one process, against a far end in memory whose state goes to the file `far_end`."""
    connection.PRAGMAS["journal_mode"] = order.get("journal_mode", connection.PRAGMAS["journal_mode"])
    far_end = MemoryFarEnd()
    with closing(Spool.create(Path(order["spool"]), new_run(), step=step)) as spool:
        for number in range(*order["batches"]):
            spool.append([batch_of(number, width=order.get("width", 0))])
            if number in order["deliver_after"]:
                delivery.deliver(spool, far_end, far_end)
        spool.end(exit_code=0, run_status="finished", ended_at=time.time())
        delivery.deliver(spool, far_end, far_end)
    Path(order["far_end"]).write_bytes(pickle.dumps(far_end))


PLAYS: dict[str, Callable[[dict[str, Any], Step], None]] = {
    "record": _record,
    "append": _append,
    "append_persistently": _append_persistently,
    "end": _end,
    "feed": _feed,
    "deliver": _deliver,
    "live": _live,
    "release": _release,
    "serve": _serve,
    "remove": _remove,
}
