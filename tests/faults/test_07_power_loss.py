"""Fault 7: the power goes at any moment. Whatever was acknowledged before is there, and the database opens.

A child lives a whole life under strace; then its disk is rebuilt as a power loss after each of its writes may leave it,
and the next owner delivers what it finds to a far end that remembers what was sent before.
"""

import copy
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spool import Spool, directory, ownership
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from streaming.upload.delivery import Progress
from tests.support import oracle, plays, power_loss, tracing
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.nursery import Nursery, order
from tests.support.oracle import Told
from tests.support.power_loss import Choice, Disk
from tests.support.recovery import BEFORE, deliver_from_memory, lines
from tests.support.tracing import Call

pytestmark = pytest.mark.timeout(600)  # thousands of spools are opened, on a machine that may be busy
BATCHES = 5
DELIVER_AFTER = [1, 3]
SEEDS = int(os.environ.get("POWER_LOSS_SEEDS", "1"))  # different losses tried after each write; more for a deep look


@pytest.fixture(autouse=True)
def strace() -> None:
    tracing.require_strace()


@dataclass
class Life:
    """What a child did: its system calls, and the far end at the end of it."""

    calls: list[Call]
    far_end: MemoryFarEnd
    spool_dir: Path

    def far_end_then(self, spool_id: str, events: list[str]) -> MemoryFarEnd:
        """The far end as it was after these steps of the child."""
        then = MemoryFarEnd()
        if "register:replied" in events:
            then.runs = copy.deepcopy(self.far_end.runs)
            run = then.runs[spool_id]
            run.finish = run.finish if "finish:replied" in events else None
        for uri in list(self.far_end.objects)[: events.count("upload:replied")]:
            then.objects[uri] = self.far_end.objects[uri]
            then.history[uri] = list(self.far_end.history[uri])
        return then


def live(nursery: Nursery, tmp_path: Path, **more: Any) -> Life:
    spool_dir = tmp_path / "recorded"
    wanted = order(
        "live",
        spool_dir,
        batches=[0, BATCHES],
        deliver_after=DELIVER_AFTER,
        far_end=str(tmp_path / "far-end"),
        **more,
    )
    options = power_loss.OPTIONS
    tracing.run_traced(nursery, wanted, tmp_path / "trace", options=options).require_success()
    far_end = pickle.loads((tmp_path / "far-end").read_bytes())
    return Life(tracing.calls(tmp_path / "trace"), far_end, spool_dir)


def power_losses(life: Life) -> Iterator[tuple[Disk, Choice]]:
    """After each call that changes or syncs: nothing unsure is there, some of it (by seeds), and now and then all."""
    disk = Disk(str(life.spool_dir))
    for number, call in enumerate(life.calls):
        if not disk.play(call):
            continue
        yield disk, Choice("none")
        for seed in range(SEEDS):
            yield disk, Choice("some", seed=number * 1000 + seed)
        if number % 4 == 0:
            yield disk, Choice("all")


def different(losses: Iterable[tuple[Disk, Choice]]) -> Iterator[tuple[dict[str, bytes], list[str]]]:
    """What is found, and what was said before: each once. Until a sync, most losses leave the same."""
    seen = set()
    for disk, choice in losses:
        files = disk.after_power_loss(choice)
        known = frozenset(files.items()), tuple(disk.events)
        if known not in seen:
            seen.add(known)
            yield files, [*disk.events]


@pytest.mark.parametrize("journal_mode", ["persist", "delete"])
def test_fault_07_power_loss_at_any_write_keeps_every_acknowledged_row(
    nursery: Nursery, tmp_path: Path, fast_dir: Path, journal_mode: str
) -> None:
    life = live(nursery, tmp_path, journal_mode=journal_mode)
    outcomes = set()
    for number, (files, events) in enumerate(different(power_losses(life))):
        if "created" not in events:
            continue  # `Spool.create` has not returned: nothing was promised
        outcomes.add(check(life, files, events, fast_dir / f"lost-{number}"))
    assert outcomes >= set(range(BATCHES + 1)), "the replay did not pass every stage"


def check(life: Life, files: dict[str, bytes], events: list[str], place: Path) -> int:
    """Deliver what the reboot found; the number of batches that were there."""
    path = write_out(files, place)
    done = events.count("appended")
    maybe = [done] if done < BATCHES else []
    with ownership.own(path), closing(Spool(path)) as spool:
        assert spool.connection.query("PRAGMA integrity_check") == [("ok",)]
        far_end = life.far_end_then(spool.run().spool_id, events)
        end_dead_run(spool)
        assert delivery.deliver(spool, far_end, far_end) is Progress.COMPLETE
    told = Told(plays.HEADERS[0], lines(range(done)), lines(maybe))
    status: dict[str, Any] = {"run_status": "finished"} if "ended" in events else {}
    oracle.judge(far_end.evidence(), told, **status)
    return done


UNDER_ONE_HEADER = (3, 5)
SYNCS = "fsync,fdatasync"
SYNCS_OF_ONE_APPEND = 5


def test_fault_07_power_loss_after_a_failed_sync_keeps_every_acknowledged_row(
    nursery: Nursery, tmp_path: Path, fast_dir: Path, a_copy: Callable[[str], Path]
) -> None:
    seen = set()
    for nth in range(1, SYNCS_OF_ONE_APPEND + 1):
        spool = a_copy(f"failed-{nth}")
        disk = Disk.of(spool.parent)
        acks = str(spool.parent / "acks")
        wanted = order("append_persistently", spool, acks=acks, batches=UNDER_ONE_HEADER, tries=5)
        options = [*power_loss.OPTIONS, "-e", f"inject={SYNCS}:error=EIO:when={nth}"]
        tracing.run_traced(nursery, wanted, tmp_path / "trace", options=options).require_success()
        losses = losses_of_an_append(disk, tracing.calls(tmp_path / "trace"))
        for number, (files, events) in enumerate(different(losses)):
            place = fast_dir / f"lost-{nth}-{number}"
            seen.add(check_rows(files, events, place))
            shutil.rmtree(place)
    assert seen == {0, 1, 2}


def losses_of_an_append(disk: Disk, calls: list[Call]) -> Iterator[tuple[Disk, Choice]]:
    for number, call in enumerate(calls):
        if disk.play(call) or call is calls[-1]:
            yield disk, Choice("none")
            yield disk, Choice("some", seed=number)


def check_rows(files: dict[str, bytes], events: list[str], place: Path) -> int:
    acknowledged = [int(line) for line in events if line.isdigit()]
    maybe = [number for number in range(*UNDER_ONE_HEADER) if number not in acknowledged]
    far_end = deliver_from_memory(write_out(files, place))
    told = Told(plays.HEADERS[0], lines([*range(BEFORE), *acknowledged]), lines(maybe))
    oracle.judge(far_end.evidence(), told, run_status="failed")
    return len(acknowledged)


def write_out(files: dict[str, bytes], place: Path) -> Path:
    place.mkdir(mode=0o700)
    for name, content in files.items():
        if not name.startswith("."):
            (place / name).write_bytes(content)
            (place / name).chmod(0o600)
    (path,) = directory.spool_paths(place)
    return path
