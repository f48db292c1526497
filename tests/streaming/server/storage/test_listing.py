"""The list of runs answers from its own table what the runs themselves would."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.listing import SORT_KEYS, ListQuery
from streaming.server.storage.runs import Finish, RunStore
from streaming.server.storage.seen import SILENT_AFTER_S, Seen, Sketch
from streaming.server.storage.tokens import TokenStore

NOW = time.time()
SKETCH = Sketch(1.5, 100.0, (0.5, None))


@pytest.fixture
def database(tmp_path: Path) -> ServerDatabase:
    made = ServerDatabase(tmp_path / "server.db")
    for name in ("mine", "other"):
        TokenStore(made).add(name)
    return made


@pytest.fixture
def runs(database: ServerDatabase) -> RunStore:
    return RunStore(database)


def fill(runs: RunStore, count: int, *, seed: int = 1) -> None:
    draw = random.Random(seed)
    for number in range(count):
        run_id = f"{number:04x}"
        metadata = {"job_name": draw.choice(["Train", "eval", "ETL"]), "project_name": draw.choice(["a", "B", None])}
        metadata = {name: value for name, value in metadata.items() if value}
        runs.register(1, {**metadata, "tags": {"k": number % 3}}, run_id=run_id, idempotency_key=None)
        if number % 3:
            ended = datetime.fromtimestamp(NOW - draw.randint(0, 1000), timezone.utc)
            runs.finish(run_id, Finish(draw.choice(["finished", "failed"]), number % 5, ended, data_uris=("s3://b/x",)))
        elif number % 2:
            runs.listing.note_rows([(run_id, Seen(number, 1, NOW - number, NOW, NOW, 0.0), SKETCH)])


def ids(runs: RunStore, **query: Any) -> list[str]:
    return [line["run_id"] for line in runs.listing.page(ListQuery(1, NOW, **query)).lines]


@pytest.mark.parametrize("key", SORT_KEYS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_put_together_are_the_whole_list_in_order_with_nothing_last(runs: RunStore, key: str, sign: str) -> None:
    fill(runs, 40)
    lines = runs.listing.page(ListQuery(1, NOW, sort=sign + key, limit=1000)).lines
    pages = [runs.listing.page(ListQuery(1, NOW, sort=sign + key, offset=at, limit=7)).lines for at in range(0, 40, 7)]
    assert [line["run_id"] for page in pages for line in page] == [line["run_id"] for line in lines]
    values = [line[key] for line in lines]
    known = [value.casefold() if isinstance(value, str) else value for value in values if value is not None]
    assert known == sorted(known, reverse=bool(sign))
    assert values[len(known) :] == [None] * (len(values) - len(known))
    assert len({line["run_id"] for line in lines}) == 40


class Explained(ServerDatabase):
    """Keeps the plan of each question."""

    plans: list[str]

    def rows(self, sql: str, parameters: Any = ()) -> list[dict[str, Any]]:
        plan = super().rows(f"EXPLAIN QUERY PLAN {sql}", parameters)
        self.plans.append("; ".join(step["detail"] for step in plan))
        return super().rows(sql, parameters)


def test_a_page_is_found_along_an_index_whatever_it_is_sorted_by(database: ServerDatabase) -> None:
    explained = Explained(database._path)
    explained.plans = []
    listing = RunStore(explained).listing
    fill(RunStore(database), 6)
    for sort in SORT_KEYS.keys() - {"state", "duration_s"}:  # those are a matter of time
        for sign in ("", "-"):
            explained.plans.clear()
            listing.page(ListQuery(1, NOW, sort=sign + sort, limit=3))
            found = [plan for plan in explained.plans if "USING INTEGER PRIMARY KEY" in plan]
            assert all(plan.count("TEMP B-TREE FOR") == 1 for plan in found), (sort, found)  # the page itself
    for chosen in ({"job": "Train"}, {"project": "a"}):
        explained.plans.clear()
        listing.page(ListQuery(1, NOW, **chosen))
        assert not [plan for plan in explained.plans if "listing_state" in plan]


def test_counts_are_of_all_states_and_each_state_can_be_asked_for(runs: RunStore) -> None:
    fill(runs, 40)
    counts = runs.listing.page(ListQuery(1, NOW)).counts
    assert sum(counts.values()) == 40
    assert set(counts) == {"finished", "failed", "recording", "registered"}
    for states in (
        ["failed"],
        ["finished", "failed"],
        ["recording"],
        ["registered", "recording"],
        ["failed", "recording"],
    ):
        page = runs.listing.page(ListQuery(1, NOW, states=states, limit=1000))
        assert {line["state"] for line in page.lines} == set(states)
        assert page.total == len(page.lines) == sum(counts[state] for state in states)
        assert page.counts == counts


def test_a_run_is_silent_by_the_clock_and_by_its_own_habit(runs: RunStore) -> None:
    for run_id, pause_s in (("a", 0.0), ("b", 1000.0)):
        runs.register(1, {}, run_id=run_id, idempotency_key=None)
        runs.listing.note_rows([(run_id, Seen(1, 2, NOW, NOW, NOW, pause_s), SKETCH)])
    for later_s, counts in (
        (10, {"recording": 2}),
        (SILENT_AFTER_S + 1, {"recording": 1, "silent": 1}),
        (3001, {"silent": 2}),
    ):
        assert runs.listing.page(ListQuery(1, NOW + later_s)).counts == counts


@pytest.mark.parametrize("is_indexed", [True, False])
def test_search_finds_parts_of_names_tags_and_hosts_and_beginnings_of_ids(runs: RunStore, is_indexed: bool) -> None:
    runs.register(
        1,
        {"job_name": 'Bücher "x"', "tags": ["größe=XL"], "host_hostname": "Node7"},
        run_id="ab12",
        idempotency_key=None,
    )
    runs.register(1, {"job_name": "other"}, run_id="cd34", idempotency_key=None)
    runs.listing.is_indexed = is_indexed and runs.listing.is_indexed
    for text in ("bücher", "ÜCHER", 'er "x', "SSE=xl", "node7", "ab1", "ab", "üc", '"x"'):
        assert ids(runs, text=text) == ["ab12"], text
    for text in ("b12", "nothing", "%", "*", "ab12 OR 1"):
        assert ids(runs, text=text) == [], text


def test_each_token_has_a_list_of_its_own(runs: RunStore) -> None:
    runs.register(2, {"project_name": "theirs", "job_name": "shared"}, run_id="ff", idempotency_key=None)
    fill(runs, 3)
    for query in ({}, {"text": "shared"}, {"text": "ff"}, {"project": "theirs"}, {"job": "shared"}):
        page = runs.listing.page(ListQuery(1, NOW, **query))
        assert "ff" not in [line["run_id"] for line in page.lines]
        assert "theirs" not in page.projects


def test_what_is_settled_is_looked_at_no_more(runs: RunStore) -> None:
    fill(runs, 3)
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    assert [run.run_id for run in runs.unsettled(finished_after=yesterday)] == ["0002", "0001", "0000"]
    runs.set_statistics("0001", {"row_count": 0, "complete": True})
    runs.set_statistics("0002", {"row_count": 0, "complete": False})
    assert [run.run_id for run in runs.unsettled(finished_after=yesterday)] == ["0002", "0000"]


def test_times_that_are_no_dates_are_left_out(runs: RunStore) -> None:
    runs.register(1, {}, run_id="a", idempotency_key=None)
    runs.listing.note_rows([("a", Seen(1, 1, 1e300, -5.0, NOW, 0.0), SKETCH)])
    (line,) = runs.listing.page(ListQuery(1, NOW)).lines
    assert line["last_row_at"] is None
    assert line["started_at"] == pytest.approx(line["registered_at"])


def test_the_orders_of_the_page_are_read_from_an_index(runs: RunStore, database: ServerDatabase) -> None:
    for key in ("id", "started_at", "project_key", "job_key", "host_key", "row_count", "last_row_at"):
        for order in ("ASC", "DESC"):
            steps = database.rows(
                f"EXPLAIN QUERY PLAN SELECT id FROM listing WHERE token_id = 1 AND {key} IS NOT NULL"
                f" ORDER BY {key} {order} LIMIT 50"
            )
            assert not any("TEMP B-TREE" in step["detail"] for step in steps), (key, steps)


def test_runs_of_a_job_are_one_line_with_what_they_are_together(runs: RunStore) -> None:
    for rank in range(4):
        tags = {"job": "39", "rank": str(rank)}
        runs.register(1, {"tags": tags, "external_run_id": "x-39"}, run_id=f"a{rank}", idempotency_key=None)
        runs.finish(f"a{rank}", Finish("failed" if rank == 3 else "finished", rank, _at(NOW), data_uris=("s3://b/x",)))
        sketch = {"average_cpu": 2.0, "peak_memory_mib": 200.0 if rank == 2 else 3.0, "cpu": [1]}
        figures = {"row_count": 10, "first_timestamp": NOW - 100 + 50 * (rank > 1), "last_timestamp": NOW}
        runs.set_statistics(f"a{rank}", {**figures, "complete": True, "sketch": sketch})
    runs.register(2, {"tags": {"job": "39"}}, run_id="ff", idempotency_key=None)
    runs.register(1, {}, run_id="b0", idempotency_key=None)
    page = runs.listing.page(ListQuery(1, NOW, is_folded=True, sort="-peak_memory_mib"))
    assert (page.total, sum(page.counts.values())) == (2, 5)
    job, other = page.lines
    assert (job["job_id"], job["run_count"], job["states"]) == ("39", 4, {"finished": 3, "failed": 1})
    assert (job["row_count"], job["exit_code"], job["peak_memory_mib"]) == (40, 3, 200.0)
    assert (job["duration_s"], job["average_cpu"]) == (pytest.approx(100), pytest.approx(6.0))
    assert job["curves"]["cpu"] == [2.0] * 30 + [4.0] * 30, "two ranks, then all four"
    assert (other["run_id"], "run_count" in other) == ("b0", False)
    assert [ids(runs, text=text) for text in ("x-39", "job=39")] == [["a3", "a2", "a1", "a0"]] * 2
    assert [line["run_id"] for line in runs.listing.members(1, "39", NOW, most=9)] == ["a0", "a1", "a2", "a3"]


def test_curve_of_a_job_of_many_is_drawn_after_some_of_its_runs(runs: RunStore) -> None:
    figures = {"row_count": 10, "first_timestamp": NOW - 60, "last_timestamp": NOW, "complete": True}
    for rank in range(350):
        runs.register(1, {"tags": {"job": "39"}}, run_id=f"{rank}", idempotency_key=None)
        runs.finish(f"{rank}", Finish("finished", 0, _at(NOW), data_uris=()))
        curve = [1.0, None, 3.0] if rank < 300 else []
        runs.set_statistics(f"{rank}", {**figures, "sketch": {"average_cpu": 2.0, "cpu": curve}})
    (job,) = runs.listing.page(ListQuery(1, NOW, is_folded=True)).lines
    assert job["run_count"] == 350
    curve = job["curves"]["cpu"]
    assert curve[20:40] == [None] * 20
    assert curve[0] == pytest.approx(300, rel=0.05)
    assert curve[-1] == pytest.approx(3 * curve[0], rel=0.001)


@pytest.mark.parametrize("sort", ["-started_at", "row_count", "state"])
def test_folded_pages_put_together_are_the_whole_list_in_its_order(runs: RunStore, sort: str) -> None:
    for number in range(12):
        runs.register(1, {"tags": {"job": str(number // 2)}}, run_id=f"{number:02}", idempotency_key=None)
    runs.listing.note_rows([(f"{number:02}", Seen(50 - number, 1, NOW, NOW, NOW), SKETCH) for number in (1, 6, 7)])
    pages = [
        runs.listing.page(ListQuery(1, NOW, is_folded=True, sort=sort, offset=at, limit=2)).lines for at in (0, 2, 4)
    ]
    every = runs.listing.page(ListQuery(1, NOW, sort=sort, limit=99)).lines
    assert [line["job_id"] for page in pages for line in page] == list(dict.fromkeys(line["job_id"] for line in every))


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


@pytest.mark.parametrize("before", ["no list", "another list"])
def test_a_directory_of_the_version_before_shows_its_runs(
    runs: RunStore, database: ServerDatabase, before: str
) -> None:
    fill(runs, 12)
    runs.changes.annotate("0003", title="The good one", notes=None)
    lines = {line["run_id"]: line for line in runs.listing.page(ListQuery(1, NOW)).lines}
    with database.transaction() as db:
        db.conn.execute("DROP TABLE sessions")
        db.conn.execute("CREATE TABLE sessions (hash TEXT PRIMARY KEY)")
        if before == "another list":
            db.conn.execute("ALTER TABLE listing DROP COLUMN job_id")
        else:
            for table in ("listing", "listing_tags", "listing_search"):
                db.conn.execute(f"DROP TABLE {table}")
    again = RunStore(ServerDatabase(database._path))
    found = {line["run_id"]: line for line in again.listing.page(ListQuery(1, NOW)).lines}
    same = ("run_id", "job_name", "project_name", "exit_code")  # what its objects tell is read again
    assert {run_id: [line.get(name) for name in same] for run_id, line in found.items()} == {
        run_id: [line.get(name) for name in same] for run_id, line in lines.items()
    }
    assert ids(again, text="good one") == (["0003"] if before == "another list" else [])
    assert ids(again, tag="k=1") != []
