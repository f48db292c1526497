"""Fault 40, by name: an engine that serves some runs dies at each named step in turn, and another one goes on.

pytest tests/faults/test_40_kill_points.py --runs 30
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from spool import Batch, Spool
from streaming.processes import engine_link
from streaming.record.plan import Delivery
from tests.support import oracle, plays
from tests.support.far_end import FarEnd
from tests.support.nursery import ANY_STEP, End, Nursery, order
from tests.support.oracle import Told
from tests.support.processes import Home, eventually
from tests.support.recorded import HEADER, rows

RUNS = (1, 3, 10)
KILLS = 20
BEFORE_THE_END = {"register:sending", "registered", "sealed", "upload:sending", "upload:replied", "marked"}
AT_THE_END = {"finish:sending", "finish:replied", "finished"}


class Recorded:
    """Runs that this process records, as far as their files go."""

    def __init__(self, spool_dir: Path, far_end: FarEnd, count: int) -> None:
        self.delivery = Delivery(far_end.token, far_end.api_url, far_end.s3_endpoint_url, 1.0, 600.0)
        self.spools = [Spool.create(spool_dir, plays.new_run(token=far_end.token)) for _ in range(count)]
        self.batches: list[list[bytes]] = [[] for _ in self.spools]

    def append(self) -> None:
        for number, (spool, batches) in enumerate(zip(self.spools, self.batches, strict=True)):
            batches.append(rows(1000 * number + 10 * len(batches), 2))
            spool.append([Batch(HEADER, batches[-1])])

    def end(self) -> None:
        for spool in self.spools:
            spool.end(exit_code=0, run_status="finished", ended_at=time.time())

    @property
    def are_sent(self) -> bool:
        return all(spool.sent_uris() for spool in self.spools)

    @property
    def are_finished(self) -> bool:
        return all(spool.run().finished_at is not None for spool in self.spools)


@contextmanager
def served(
    nursery: Nursery, home: Home, recorded: Recorded, kill_at: tuple[str, int] | None = None
) -> Iterator["Future[End]"]:
    """An engine that has got the orders for all runs. Without a death to come, it ends when it is no longer needed."""
    play = order("serve", home.spool_dir, kill_at=kill_at, tmp_dir=os.environ["TMPDIR"])
    with ThreadPoolExecutor(1) as thread:
        end = thread.submit(nursery.run, play)
        link = eventually(lambda: engine_link.find(home.spool_dir), 30, "no engine")
        with closing(link):
            for spool in recorded.spools:
                link.tell(recorded.delivery.order(spool.path))
            yield end


def steps_of_a_life(nursery: Nursery, home: Home, far_end: FarEnd) -> list[str]:
    """Each step that an engine passes with one run, in the order of their first time."""
    recorded = Recorded(home.spool_dir, far_end, 1)
    with closing(recorded.spools[0]):
        recorded.append()
        with served(nursery, home, recorded) as engine:
            eventually(lambda: recorded.are_sent)
            recorded.append()
            recorded.end()
            eventually(lambda: recorded.are_finished)
        return list(dict.fromkeys(engine.result().steps))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "count" in metafunc.fixturenames:
        given = metafunc.config.getoption("--runs")
        metafunc.parametrize("count", [given] if given else RUNS)


@pytest.mark.timeout(300)
def test_fault_40_engine_killed_at_each_step_loses_and_doubles_nothing(
    nursery: Nursery, home: Home, count: int
) -> None:
    with FarEnd() as far_end:
        steps = steps_of_a_life(nursery, home, far_end)
    assert set(steps) >= BEFORE_THE_END | AT_THE_END
    with FarEnd() as far_end, ExitStack() as stack:
        recorded = Recorded(home.spool_dir, far_end, count)
        for spool in recorded.spools:
            stack.enter_context(closing(spool))
        nth = (
            2 if count > len(steps) else 1
        )  # at the second, another run has passed it; enough must be left for each step
        for name in steps:
            if name == "finish:sending":
                recorded.end()
            elif not name.startswith("finish"):
                recorded.append()
            with served(nursery, home, recorded, kill_at=(name, nth)) as engine:
                assert engine.result(60).was_killed, name
        end_and_judge(nursery, home, far_end, recorded)
        assert far_end.journal.count("finish") > count, "some were finished twice, and are one all the same"


@pytest.mark.timeout(300)
def test_fault_40_engine_killed_twenty_times_after_a_few_steps_each_loses_and_doubles_nothing(
    nursery: Nursery, home: Home, far_end: FarEnd
) -> None:
    with ExitStack() as stack:
        recorded = Recorded(home.spool_dir, far_end, 10)
        for spool in recorded.spools:
            stack.enter_context(closing(spool))
        for steps in range(1, KILLS + 1):
            recorded.append()
            with served(nursery, home, recorded, kill_at=(ANY_STEP, steps)) as engine:
                assert engine.result(60).was_killed, steps
        recorded.end()
        end_and_judge(nursery, home, far_end, recorded)


def end_and_judge(nursery: Nursery, home: Home, far_end: FarEnd, recorded: Recorded) -> None:
    with served(nursery, home, recorded):
        eventually(lambda: recorded.are_finished, 60)
    assert len(far_end.runs) == len(recorded.spools)
    for spool, batches in zip(recorded.spools, recorded.batches, strict=True):
        registration = spool.run().registration
        assert registration is not None
        evidence = far_end.evidence(registration.run_id)
        oracle.judge(evidence, Told(HEADER, batches), run_status="finished", exit_code=0)
