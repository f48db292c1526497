"""The list of runs: of each run what the list shows, sorts by and searches, in a table that has an index for it.

Everything in it is derived from the runs and their rows, and written in the transaction that changes the run; what is known
of the rows of a run that goes on is added in between (`note_rows`). The state of such a run is a matter of time: it is
`silent` from `silent_at` on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from sqlite3 import OperationalError
from typing import Any

from streaming.config import host_of
from streaming.server.storage import jobs
from streaming.server.storage.database import ServerDatabase, drop_unless_made_by
from streaming.server.storage.seen import SILENT_AFTER_S, Seen, Sketch, silent_at

_SHOWN = ("project_name", "job_name", "stage_name", "task_name", "team", "orchestrator", "tags")
_SEARCHED = (*_SHOWN[:-1], "external_run_id")
_LONGEST_KEY, _LONGEST_SEARCH = 200, 4000
_YEAR_10000 = 253_402_300_800
_MOST_RUNS = 10_000_000  # of a token
_FEW = 20  # runs in a state for each that is not: then they are found by it

# What may be sorted by -> how. Names are there as they are shown (`*_name`) or, to be sorted by, without case (`*_key`).
_STATE = (
    "CASE WHEN status IS NOT NULL THEN status WHEN silent_at < :now THEN 'silent'"
    " WHEN object_count > 0 THEN 'recording' ELSE 'registered' END"
)
_DURATION = "max(0, coalesce(ended_at, :now) - started_at)"
_SORTED_BY_COLUMN = (
    "exit_code",
    "started_at",
    "ended_at",
    "row_count",
    "object_count",
    "last_row_at",
    "last_upload_at",
    "average_cpu",
    "peak_memory_mib",
)
_NEVER_NULL = ("id", "run_id", "started_at", _STATE, _DURATION)  # where there is one, NULL sorts last
SORT_KEYS = {
    **{name: name for name in ("run_id", *_SORTED_BY_COLUMN)},
    **{name: name.replace("_name", "_key") for name in ("project_name", "job_name")},
    "team": "team_key",
    "host": "host_key",
    "registered_at": "id",
    "state": _STATE,
    "duration_s": _DURATION,
}
_INDEXED = (
    *("run_id", "project_name", "project_key", "job_key", "team_key", "host_key", "group_key, started_at"),
    *_SORTED_BY_COLUMN,
)
_STATES_COVERED = "status, silent_at, object_count"

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS listing (
        id INTEGER PRIMARY KEY,    -- of the run
        token_id INTEGER NOT NULL,
        run_id TEXT NOT NULL,
        title TEXT,                -- given by a person
        job_id TEXT,               -- of the scheduler or launcher: of all runs that it started as one
        group_key TEXT NOT NULL,   -- the same for all runs of a job
        project_name TEXT, project_key TEXT, job_key TEXT, team_key TEXT, host_key TEXT,
        status TEXT,               -- NULL while the run goes on
        exit_code INTEGER,
        started_at REAL NOT NULL,  -- its first row's time, as soon as that is known. All times: seconds since the epoch
        ended_at REAL,
        row_count INTEGER, object_count INTEGER,
        last_row_at REAL, last_upload_at REAL,
        average_cpu REAL, peak_memory_mib REAL, cpu_99 REAL, curves TEXT,  -- see `Sketch`
        silent_at REAL NOT NULL,
        is_settled INTEGER NOT NULL DEFAULT 0,  -- finished, and its figures are complete
        search TEXT NOT NULL       -- names and tags without case
    )""",
    *(
        f"CREATE INDEX IF NOT EXISTS listing_{name.partition(',')[0]} ON listing (token_id, {name})"
        for name in _INDEXED
    ),
    "CREATE INDEX IF NOT EXISTS listing_token ON listing (token_id)",  # by registration
    f"CREATE INDEX IF NOT EXISTS listing_state ON listing (token_id, {_STATES_COVERED})",
    "CREATE INDEX IF NOT EXISTS listing_unsettled ON listing (id) WHERE is_settled = 0",
    "CREATE TABLE IF NOT EXISTS listing_tags (tag TEXT, id INTEGER, PRIMARY KEY (tag, id)) WITHOUT ROWID",
)
_SEARCH = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS listing_search USING fts5"
    "(search, content='listing', content_rowid='id', tokenize='trigram')"
)
_SHORTEST_INDEXED = 3  # characters


@dataclass(frozen=True)
class ListQuery:
    """What of the list is asked for. `sort` is one of `SORT_KEYS`, with `-` before it for the other direction."""

    token_id: int | None  # None: of all tokens
    now: float
    text: str = ""
    states: Sequence[str] = ()
    project: str = ""
    job: str = ""
    tag: str = ""
    is_folded: bool = False  # the runs of a job are one line
    sort: str = "-registered_at"
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True)
class Page:
    """Lines of the list; how many there are in all; and how many by state, whatever states were asked for."""

    lines: list[dict[str, Any]]
    total: int
    counts: dict[str, int]
    projects: list[str]


class RunListing:
    """The table, and what it answers. `db` is the connection of the transaction that changes the run."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database
        with database.transaction() as db:
            titles = _titles(db.conn)
            drop_unless_made_by(db.conn, _SCHEMA[0], ["listing", "listing_tags", "listing_search"])
            for statement in _SCHEMA:
                db.conn.execute(statement)
            self.is_indexed = _has_search_index(db.conn)
            unlisted = db.conn.execute("SELECT id FROM runs WHERE id NOT IN (SELECT id FROM listing)").fetchall()
            for (row_id,) in unlisted:  # of a version that kept no list, or another one
                self.add(db.conn, row_id, title=titles.get(row_id))

    def add(self, db: Any, row_id: int | None, *, title: str | None = None) -> None:
        """Take in a run of the table `runs`, as far as it has come."""
        row = db.execute(
            "SELECT token_id, run_id, metadata, registered_at FROM runs WHERE id = ?", (row_id,)
        ).fetchone()
        metadata, at = json.loads(row[2]), _seconds(row[3])
        names = {name: _key(metadata.get(name)) for name in ("project_name", "job_name", "team")}
        host, tags, job_id = host_of(metadata), tag_texts(metadata.get("tags")), jobs.id_of(metadata)
        texts = [*(metadata.get(name) or "" for name in _SEARCHED), host or "", *tags]
        search = " ".join(map(str, texts)).casefold()[:_LONGEST_SEARCH]
        search = f"{title.casefold()} {search}" if title else search
        db.execute(
            "INSERT INTO listing (id, token_id, run_id, job_id, group_key, project_name, project_key, job_key, team_key,"
            " host_key, started_at, silent_at, search, title) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row_id, row[0], row[1], job_id, jobs.group_key(job_id, row[1])),
                *(metadata.get("project_name"), *names.values(), _key(host)),
                *(at, at + SILENT_AFTER_S, search, title),
            ),
        )
        db.executemany(
            "INSERT OR IGNORE INTO listing_tags VALUES (?, ?)", [(tag[:_LONGEST_KEY], row_id) for tag in tags]
        )
        if self.is_indexed:
            db.execute("INSERT INTO listing_search (rowid, search) VALUES (?, ?)", (row_id, search))
        self.finish(db, row[1])

    def finish(self, db: Any, run_id: str) -> None:
        """Take over what the finish said, if there was one, and the figures that came with it."""
        row = db.execute(
            "SELECT id, run_status, exit_code, ended_at, finished_at, json_array_length(coalesce(data_uris, '[]')),"
            " statistics FROM runs WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        if row[4] is None:
            return
        status = "failed" if row[1] == "failed" else "finished"
        db.execute(
            "UPDATE listing SET status = ?, exit_code = ?, ended_at = ?, last_upload_at = ?, object_count = ? WHERE id = ?",
            (status, row[2], _seconds(row[3]), _seconds(row[4]), row[5], row[0]),
        )
        if row[6]:
            self.note_figures(db, run_id, json.loads(row[6]))

    def note_figures(self, db: Any, run_id: str, figures: dict[str, Any]) -> None:
        """Take over the figures of a finished run, and its sketch, where they have one."""
        sketch = Sketch(**figures.get("sketch", {}))
        db.execute(
            "UPDATE listing SET row_count = ?, started_at = coalesce(?, started_at), last_row_at = ?, is_settled = ?,"
            " average_cpu = ?, peak_memory_mib = ?, cpu_99 = ?, curves = ?"
            " WHERE run_id = ? AND id = (SELECT id FROM runs WHERE run_id = ?)",
            (
                *(
                    figures.get("row_count"),
                    _date(figures.get("first_timestamp")),
                    _date(figures.get("last_timestamp")),
                ),
                *(bool(figures.get("complete")), *sketch.values, run_id, run_id),
            ),
        )

    def note_rows(self, seen: Iterable[tuple[str, Seen, Sketch]]) -> None:
        """What was read of runs that go on, all in one transaction."""
        with self._database.transaction() as db:
            db.conn.executemany(
                "UPDATE listing SET row_count = ?, object_count = ?, started_at = coalesce(?, started_at),"
                " last_row_at = ?, last_upload_at = ?, silent_at = coalesce(?, silent_at),"
                " average_cpu = ?, peak_memory_mib = ?, cpu_99 = ?, curves = ?"
                " WHERE status IS NULL AND id = (SELECT id FROM runs WHERE run_id = ?)",
                [
                    (
                        it.row_count,
                        it.object_count,
                        _date(it.first),
                        _date(it.last),
                        it.last_upload_at,
                        silent_at(it),
                        *sketch.values,
                        run_id,
                    )
                    for run_id, it, sketch in seen
                ],
            )

    def line(self, run_id: str, now: float, seen: Seen) -> dict[str, Any]:
        """One run as the list shows it, with what was just seen of its rows."""
        where = "id = (SELECT id FROM runs WHERE run_id = :run_id)"
        (line,) = self._lines(where, "id", {"run_id": run_id, "now": now, "limit": 1, "offset": 0})
        started_at = _date(seen.first) or line["started_at"]
        is_silent = now > (silent_at(seen) or line["silent_at"])
        state = "silent" if is_silent else "recording" if seen.object_count else "registered"
        return {
            **line,
            "state": line["state"] if line["ended_at"] is not None else state,
            "row_count": seen.row_count,
            "object_count": seen.object_count,
            "started_at": started_at,
            "duration_s": max(0.0, round((line["ended_at"] or now) - started_at, 3)),
            "last_row_at": _date(seen.last),
            "last_upload_at": seen.last_upload_at,
        }

    def page(self, query: ListQuery) -> Page:
        """Runs without a value to sort by come last, in either direction."""
        where, values = self._conditions(query)
        counts = self._counts(where, values, is_all=not (query.text or query.project or query.job or query.tag))
        total = sum(count for state, count in counts.items() if not query.states or state in query.states)
        if query.states:
            is_rare = total * _FEW < sum(counts.values())
            where += f" AND {_state_condition(query.states, is_rare=is_rare)}"
        if query.is_folded:
            total = self._database.rows(f"SELECT count(DISTINCT group_key) AS n FROM listing WHERE {where}", values)[0][
                "n"
            ]
        lines = self._sorted(where, values, query) if query.offset < total else []
        return Page(lines, total, counts, self._projects(query.token_id))

    def _conditions(self, query: ListQuery) -> tuple[str, dict[str, Any]]:
        found = {
            "token_id = :token": query.token_id is not None,
            "project_name = :project": query.project,
            "job_key = :job": query.job,
            "id IN (SELECT id FROM listing_tags WHERE tag = :tag)": query.tag,
            self._search_condition(query.text): query.text,
        }
        values = {
            "token": query.token_id,
            "now": query.now,
            "project": query.project,
            "job": _key(query.job),
            "tag": query.tag[:_LONGEST_KEY],
            "text": query.text.casefold(),
            "phrase": '"{}"'.format(query.text.casefold().replace('"', '""').replace("\0", " ")),
        }
        return " AND ".join(["1", *(condition for condition, is_asked in found.items() if is_asked)]), values

    def _search_condition(self, text: str) -> str:
        """Part of a name, tag or host, or the beginning of the run's id."""
        has_id = "(run_id >= :text AND run_id < :text || 'g')"
        if self.is_indexed and len(text) >= _SHORTEST_INDEXED:
            return (
                "id IN (SELECT rowid FROM listing_search WHERE listing_search MATCH :phrase"
                f" UNION SELECT id FROM runs WHERE {has_id})"
            )
        return f"(instr(search, :text) OR {has_id})"

    def _counts(self, where: str, values: dict[str, Any], *, is_all: bool) -> dict[str, int]:
        """Of all runs along the index of states; of some, by what they were chosen by."""
        sql = f"SELECT {_STATE} AS state, count(*) AS runs FROM listing WHERE {where} GROUP BY 1"
        if is_all:
            sql = (
                f"SELECT status AS state, count(*) AS runs FROM listing WHERE {where} AND status IS NOT NULL GROUP BY 1"
                f" UNION ALL SELECT {_STATE}, count(*) FROM listing WHERE {where} AND status IS NULL GROUP BY 1"
            )
        rows = self._database.rows(sql, values)
        return {row["state"]: row["runs"] for row in rows}

    def _sorted(self, where: str, values: dict[str, Any], query: ListQuery) -> list[dict[str, Any]]:
        key, order = SORT_KEYS[query.sort.lstrip("-")], "DESC" if query.sort.startswith("-") else "ASC"
        values = {**values, "limit": query.limit, "offset": query.offset}
        if query.is_folded:
            return self._folded(where, key, order, values)
        if order == "DESC" or key in _NEVER_NULL:
            return self._lines(where, f"{key} {order}, id {order}", values)
        lines = self._lines(f"{where} AND {key} IS NOT NULL", f"{key}, id", values)
        if len(lines) == query.limit:
            return lines
        with_value = f"SELECT count(*) AS runs FROM listing WHERE {where} AND {key} IS NOT NULL"
        passed = max(0, query.offset - self._database.rows(with_value, values)[0]["runs"])
        values = {**values, "limit": query.limit - len(lines), "offset": passed}
        return lines + self._lines(f"{where} AND {key} IS NULL", "id DESC", values)

    def _folded(self, where: str, key: str, order: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Jobs and runs of none, each as its run that comes first in this order, with what is known of all its runs."""
        wanted, count = values["offset"] + values["limit"], 0
        firsts: dict[tuple[int, str], int] = {}
        while (
            len(firsts) < wanted and count < _MOST_RUNS
        ):  # jobs are few runs, mostly: the order's index gives them at once
            count = max(count * 8, wanted * 4)
            firsts = {}
            for condition, ties in ((f"{key} IS NOT NULL", order), (f"{key} IS NULL", "DESC")):
                rows = self._database.rows(
                    f"SELECT id, token_id, group_key FROM listing WHERE {where} AND {condition}"
                    f" ORDER BY {key} {order}, id {ties} LIMIT {count}",
                    values,
                )
                for row in rows:
                    firsts.setdefault((row["token_id"], row["group_key"]), row["id"])
                if len(firsts) >= wanted or len(rows) == count:
                    break
            else:
                break
        ids = list(firsts.values())[values["offset"] : wanted]
        one_of = f"id IN ({', '.join(map(str, ids))})"
        lines = self._lines(one_of, "id DESC", {**values, "offset": 0})
        now = values["now"]
        members = self._database.rows(
            f"SELECT token_id, run_id, job_id, {_STATE} AS state, exit_code, started_at, ended_at, row_count, object_count,"
            f" last_row_at, average_cpu, peak_memory_mib, {_DURATION} AS duration_s, {jobs.SOME_CURVES} AS curves"
            f" FROM listing WHERE (token_id, group_key)"
            f" IN (SELECT token_id, group_key FROM listing WHERE {one_of} AND job_id IS NOT NULL)",
            {"now": now},
        )
        place = {row_id: at for at, row_id in enumerate(ids)}
        return jobs.folded(sorted(lines, key=lambda line: place[line["id"]]), members, now=now)

    def members(self, token_id: int, job_id: str, now: float, *, most: int) -> list[dict[str, Any]]:
        """The runs of a job, in the order in which they were registered."""
        where = "token_id = :token AND group_key = :group"
        values = {"token": token_id, "group": jobs.group_key(job_id, ""), "now": now, "limit": most, "offset": 0}
        return self._lines(where, "id", values)

    def _lines(self, where: str, order: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        """The order is found in the narrow table first; metadata is read of the chosen runs only."""
        rows = self._database.rows(
            f"SELECT listing.*, {_STATE} AS state, {_DURATION} AS duration_s, metadata, registered_at FROM"
            f" (SELECT id FROM listing WHERE {where} ORDER BY {order} LIMIT :limit OFFSET :offset)"
            " AS chosen JOIN listing USING (id) JOIN (SELECT id, metadata, registered_at FROM runs) USING (id)"
            f" ORDER BY {order}",
            values,
        )
        return [_line(row) for row in rows]

    def _projects(self, token_id: int | None) -> list[str]:
        """Each name once, by jumps along the index."""
        mine = "token_id = :token AND" if token_id is not None else ""
        rows = self._database.rows(
            f"WITH RECURSIVE names (name) AS (SELECT min(project_name) FROM listing WHERE {mine} project_name > ''"
            f" UNION ALL SELECT (SELECT min(project_name) FROM listing WHERE {mine} project_name > name)"
            " FROM names WHERE name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL",
            {"token": token_id},
        )
        return [row["name"] for row in rows]


def _titles(db: Any) -> dict[int, str]:
    """What people have called runs, by row: nothing else keeps that."""
    try:
        return dict(db.execute("SELECT id, title FROM listing WHERE title IS NOT NULL"))
    except OperationalError:  # no such table or column
        return {}


def _has_search_index(db: Any) -> bool:
    """SQLite before 3.34 has none for parts of words: there, searching reads the whole list."""
    try:
        db.execute(_SEARCH)
    except OperationalError:
        return False
    return True


def _state_condition(states: Sequence[str], *, is_rare: bool) -> str:
    """By the index of states only where they are rare: else the order's own index is quicker."""
    names = ", ".join(f"'{state}'" for state in states if state.isalpha())
    ended = [state for state in states if state in ("finished", "failed")]
    column = "status" if is_rare else "+status"
    if len(ended) == len(states):
        return f"{column} IN ({names})"
    return f"{column} IS NULL AND {_STATE} IN ({names})" if not ended else f"{_STATE} IN ({names})"


def _line(row: dict[str, Any]) -> dict[str, Any]:
    metadata = json.loads(row["metadata"])
    return {
        "id": row["id"],
        "run_id": row["run_id"],
        **{name: row[name] for name in ("title", "job_id", "cpu_99")},
        "curves": json.loads(row["curves"] or "{}"),
        "state": row["state"],
        **{name: metadata.get(name) for name in _SHOWN},
        "host": host_of(metadata),
        "registered_at": _seconds(row["registered_at"]),
        "duration_s": round(row["duration_s"], 3),
        **{name: row[name] for name in (*_SORTED_BY_COLUMN, "silent_at")},
    }


def tag_texts(tags: Any) -> list[str]:
    """`key=value` of a dict; a list's texts as they are."""
    if isinstance(tags, dict):
        return [f"{key}={value}" for key, value in tags.items()]
    return [text for tag in tags or [] for text in (tag_texts(tag) if isinstance(tag, dict) else [str(tag)])]


def _key(text: Any) -> str | None:
    return None if text is None else str(text).casefold()[:_LONGEST_KEY]


def _date(at: float | None) -> float | None:
    """None for a time that is no date, as of a clock gone mad."""
    return at if at is not None and 0 <= at < _YEAR_10000 else None


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
