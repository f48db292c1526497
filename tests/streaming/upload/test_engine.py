"""Whose turn it is in an engine, and what one keeps of the runs that came and went."""

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streaming.processes.engine_link import EngineLink
from streaming.upload.engine import Engine
from streaming.upload.model import NO_WISHES
from streaming.upload.threads import THREADS
from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.processes import Home, eventually
from tests.support.recorded import record

REFUSED = "a-token-that-nobody-knows"


@contextmanager
def serving(spool_dir: Path) -> Iterator[tuple[Engine, EngineLink]]:
    """An engine in a thread of this process, and the connection that keeps it."""
    ours, its = socket.socketpair()
    engine = Engine(spool_dir)
    engine.meet(its)
    thread = threading.Thread(target=engine.serve)
    thread.start()
    link = EngineLink(ours)
    try:
        yield engine, link
    finally:
        link.close()
        thread.join(30)
        assert not thread.is_alive()


def terms_at(far_end: FarEnd) -> dict[str, Any]:
    return {"token": far_end.token, "api_url": far_end.api_url, "s3_endpoint_url": far_end.s3_endpoint_url}


def order(link: EngineLink, path: Path, far_end: FarEnd, **terms: str) -> None:
    link.tell({"do": "drain", "path": str(path), **vars(NO_WISHES), **terms_at(far_end), **terms})


def ask(link: EngineLink, path: Path, far_end: FarEnd, *, until: str = "done", **terms: str) -> None:
    """Have a run drained, until the engine tells this of it; then leave it."""
    order(link, path, far_end, **terms)
    eventually(lambda: any(event["event"] == until for event in link.events(0.1)))
    link.tell({"do": "leave", "path": str(path)})


def test_week_of_backlog_of_as_many_runs_as_there_are_threads_waits_behind_the_first_turn_of_another(
    home: Home, far_end: FarEnd
) -> None:
    first, rest = faults.held(), faults.held()
    far_end.always("put", first, matching=lambda head: "/00000001-" in head.path)
    far_end.always("put", rest, matching=lambda head: "/00000001-" not in head.path)
    backlogs = [record(home.spool_dir, far_end, segments=3) for _ in range(THREADS)]
    other = record(home.spool_dir, far_end, is_sealed=False)
    with serving(home.spool_dir) as (_, link):
        for backlog in backlogs:
            order(link, backlog.path, far_end)
        eventually(lambda: far_end.journal.count("put") == THREADS, 30)
        order(link, other.path, far_end)
        link.tell({"do": "status"})
        eventually(lambda: any(event["event"] == "status" for event in link.events(0.1)))
        for fault in (first, rest):
            assert fault.gate is not None
        first.gate.release()
        done = eventually(lambda: [event for event in link.events(0.1) if event["event"] == "done"], 30)
        assert [event["path"] for event in done] == [str(other.path)]
        rest.gate.release()


def settle(engine: Engine, link: EngineLink) -> None:
    """Until no run is left, nor a turn of one, and the engine has come round once more since."""
    eventually(lambda: not engine._jobs and not engine._threads._running_count)
    link.tell({"do": "status"})
    eventually(lambda: any(event["event"] == "status" for event in link.events(0.1)))


def weight(of: object) -> int:
    """How much it holds, counted in entries of dictionaries, sets and lists, through all objects of ours."""
    seen: set[int] = set()
    waiting: deque[Any] = deque([of])
    count = 0
    while waiting:
        each = waiting.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            count += len(each)
            waiting.extend([*each.keys(), *each.values()])
        elif isinstance(each, (list, tuple, set, frozenset, deque)):
            count += len(each)
            waiting.extend(each)
        elif type(each).__module__.startswith(("streaming.", "spool.")):
            waiting.append(vars(each) if hasattr(each, "__dict__") else ())
    return count


def test_engine_keeps_nothing_of_runs_that_came_and_went_however_they_ended(home: Home, far_end: FarEnd) -> None:
    """Delivered after lost replies, refused, unreachable at an address of its own, given up with its object in doubt."""
    weights = []
    with serving(home.spool_dir) as (engine, link):
        for number in range(3):
            far_end.fail_next("put", faults.reply_lost())
            ask(link, record(home.spool_dir, far_end, segments=2).path, far_end)
            refused = record(home.spool_dir, far_end)
            ask(link, refused.path, far_end, token=REFUSED)
            elsewhere = record(home.spool_dir, far_end)
            ask(link, elsewhere.path, far_end, until="problem", api_url=f"http://127.0.0.1:9/{number}", anywhere="yes")
            with far_end.always("put", faults.reply_lost()):
                ask(link, record(home.spool_dir, far_end).path, far_end, until="problem")
            settle(engine, link)
            weights.append(weight(engine) - len(engine._delivered))  # these are files that still lie there
    assert weights == [weights[0]] * len(weights)


def test_engine_tries_a_refused_token_again_when_somebody_asks_for_the_run(home: Home, far_end: FarEnd) -> None:
    """Else it would be left alone for minutes, by all runs that have it."""
    far_end.revoke_token()
    recorded = record(home.spool_dir, far_end)
    with serving(home.spool_dir) as (engine, link):
        ask(link, recorded.path, far_end)
        assert far_end.journal.count("register") == 1
        far_end.accept_token(far_end.token)
        ask(link, recorded.path, far_end)
        settle(engine, link)
    recorded.judge(far_end)


def test_engine_that_is_hurried_ends_though_nobody_answers(home: Home, far_end: FarEnd) -> None:
    far_end.down()
    recorded = record(home.spool_dir, far_end)
    with serving(home.spool_dir) as (engine, link):
        order(link, recorded.path, far_end)
        eventually(lambda: any(event["event"] == "problem" for event in link.events(0.1)))
        engine.hurry(0.2)
        eventually(lambda: link.events(0.1) == [] and not link.is_open, 30)


def record_for(link: EngineLink, path: Path, far_end: FarEnd) -> None:
    """Give the order of a tracker: this process."""
    recording = {"tracker_pid": os.getpid(), "is_awaited": False, "interval_s": 60, "linger_s": 0}
    link.tell({"do": "deliver", "path": str(path), **recording, **terms_at(far_end)})


def test_tracker_is_told_when_a_person_stops_the_engine(home: Home, far_end: FarEnd) -> None:
    """It does not start another one then."""
    far_end.down()
    told: list[str] = []
    with serving(home.spool_dir) as (_, link):
        record_for(link, record(home.spool_dir, far_end).path, far_end)
        link.tell({"do": "stop"})
        eventually(
            lambda: told.extend(event["event"] for event in link.events(0.1)) or "stopping" in told or not link.is_open
        )
    assert "stopping" in told


def test_service_is_asked_once_for_all_runs_with_a_refused_token(home: Home, far_end: FarEnd) -> None:
    far_end.revoke_token()
    with serving(home.spool_dir) as (engine, link):
        for _ in range(3):
            path = record(home.spool_dir, far_end).path
            record_for(link, path, far_end)
            eventually(lambda path=path: any(event.get("path") == str(path) for event in link.events(0.1)))
        assert far_end.journal.count() == 1
        engine.hurry(0.0)  # the runs' tracker, this process, lives on
