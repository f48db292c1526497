"""Bringing a spool of an older version up to date: on a private copy, which then takes its place in one rename."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from spool import system
from spool.database import schema
from spool.database.connection import translated
from spool.recovery import replace


def migrate(
    path: Path,
    identity: tuple[int, int],
    *,
    to_version: int = schema.VERSION,
    migrations: Mapping[int, schema.Migration] = schema.MIGRATIONS,
) -> None:
    """All steps or none, whenever it dies. Does nothing if somebody else was faster. Raises SpoolRefused if there is no way.

    The caller has just opened the file, so no crashed transaction waits in its journal, and has closed it again.
    """
    with replace.exclusively(path, identity) as descriptor, replace.new_file(path) as new:
        if descriptor is None:
            return
        system.copy_file(descriptor, new)
        with translated(path), closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = extra")
            schema.migrate(connection, path, to_version=to_version, migrations=migrations)
        replace.put_in_place(new, path)
