"""What a person changes about a run: its title and notes, or that it is gone. Every method is one transaction."""

from __future__ import annotations

from typing import Any

from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.listing import RunListing


class RunChanges:
    """Of runs that were found to be the caller's."""

    def __init__(self, database: ServerDatabase, listing: RunListing) -> None:
        self._database = database
        self._listing = listing

    def notes(self, run_id: str) -> str:
        rows = self._database.rows("SELECT notes FROM notes WHERE run_id = ?", (run_id,))
        return str(rows[0]["notes"]) if rows else ""

    def annotate(self, run_id: str, *, title: str | None, notes: str | None) -> None:
        """None leaves it as it is. A run is found by its title, too."""
        with self._database.transaction() as db:
            if notes is not None:
                db.conn.execute("INSERT OR REPLACE INTO notes (run_id, notes) VALUES (?, ?)", (run_id, notes))
            if title is not None:
                row_id, search, former = _listed(db.conn, run_id, "search, coalesce(title, '')")
                self._forget_words(db.conn, row_id, search)
                search = search.removeprefix(f"{former.casefold()} ") if former else search
                search = f"{title.casefold()} {search}" if title else search
                db.conn.execute(
                    "UPDATE listing SET title = ?, search = ? WHERE id = ?", (title or None, search, row_id)
                )
                if self._listing.is_indexed:
                    db.conn.execute("INSERT INTO listing_search (rowid, search) VALUES (?, ?)", (row_id, search))

    def delete(self, run_id: str) -> None:
        """All that the database knows of it. Its objects are to be gone before: what is killed in between is asked again."""
        with self._database.transaction() as db:
            row_id, search = _listed(db.conn, run_id, "search")
            self._forget_words(db.conn, row_id, search)
            for table in ("listing_tags", "listing", "runs"):
                db.conn.execute(f"DELETE FROM {table} WHERE id = ?", (row_id,))  # noqa: S608 - our own names
            db.conn.execute("DELETE FROM notes WHERE run_id = ?", (run_id,))

    def _forget_words(self, db: Any, row_id: int, search: str) -> None:
        """The index keeps no text of its own: it must be told which one it loses."""
        if self._listing.is_indexed:
            sql = "INSERT INTO listing_search (listing_search, rowid, search) VALUES ('delete', ?, ?)"
            db.execute(sql, (row_id, search))


def _listed(db: Any, run_id: str, columns: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = db.execute(
        f"SELECT id, {columns} FROM listing WHERE id = (SELECT id FROM runs WHERE run_id = ?)",  # noqa: S608
        (run_id,),
    ).fetchone()
    return found
