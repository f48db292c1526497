"""Draining one run: what becomes of it, and what is kept for people to see."""

from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool
from streaming.clients import Clients
from streaming.drain import Outcome, drain_run
from streaming.watch import Watch
from tests.support.far_end import FarEnd
from tests.support.processes import Home
from tests.support.runs import dead_run


def drain(path: Path, far_end: FarEnd, *, timeout_s: float = 20.0) -> Outcome:
    clients = Clients.connect(far_end.token, api_url=far_end.api_url, s3_endpoint_url=far_end.s3_endpoint_url)
    watch = Watch(orders=None, tracker=None)
    with closing(watch):
        watch.limit(timeout_s)
        return drain_run(path, clients, watch, api_url=far_end.api_url, waits_for_token=False)


def problem_of(path: Path) -> tuple[str | None, str | None]:
    with closing(Spool(path)) as spool:
        run = spool.run()
        return run.problem, run.problem_cause


def test_refused_token_ends_the_drain_and_its_cause_is_kept(home: Home, far_end: FarEnd) -> None:
    path = dead_run(home.spool_dir)
    far_end.revoke_token()
    assert drain(path, far_end) is Outcome.TOKEN_REFUSED
    assert far_end.journal.count("register") == 1
    problem, cause = problem_of(path)
    assert cause == "token refused"
    assert "SENTINEL_API_TOKEN" in (problem or "")


@pytest.mark.parametrize(("door", "cause"), [("api", "refused"), ("both", "refused")])
def test_unreachable_target_leaves_its_cause(home: Home, far_end: FarEnd, door: str, cause: str) -> None:
    path = dead_run(home.spool_dir)
    far_end.down(door)
    assert drain(path, far_end, timeout_s=0.5) is Outcome.WAITING
    assert problem_of(path)[1] == cause


def test_delivered_run_has_no_problem_left(home: Home, far_end: FarEnd) -> None:
    path = dead_run(home.spool_dir)
    far_end.down()
    assert drain(path, far_end, timeout_s=0.5) is Outcome.WAITING
    far_end.up()
    assert drain(path, far_end) is Outcome.DELIVERED
    assert problem_of(path) == (None, None)
