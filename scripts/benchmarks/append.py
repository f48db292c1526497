"""Rows 2 and 3: a durable append, of one row and of a thousand, beside bare SQLite, a plain file, and the peers."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import child, measure
from benchmarks.rows import HEADER, Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import World

BATCH_ROWS = 1000
Append = Callable[[bytes], Any]

GUARANTEES = {
    "write + fdatasync": "power loss; no transaction, no checksum, no way to take rows out",
    "persist-queue ack queue": "power loss, but WAL (see README); no checksum",
    "litequeue": "killed process only: WAL with synchronous=NORMAL loses what was put last at a power loss",
    "spool in journal mode DELETE": "the same as ours",
}


def measure_append(world: World) -> Measured:
    """Blocks of appends in turn, all on the same disk; the median of single appends, ratios block by block."""
    order = {"folder": str(world.folder("append")), "rounds": world.pick(40, 8), "block": world.pick(25, 12)}
    one = child.call(one_row, world.environment(), **order)
    many = child.call(thousand_rows, world.environment(), folder=order["folder"], rounds=world.pick(60, 20))
    return Measured(_one_row_figures(one) + _thousand_figures(many), _notes(one))


def _one_row_figures(taken: dict[str, list[float]]) -> list[Figure]:
    ours, bare = taken.pop("spool"), taken.pop("bare sqlite3")
    ratio = measure.ratio_of(ours, bare)
    figures = [
        Figure(
            "2",
            "durable append of one row",
            _ms(ours),
            f"bare sqlite3, same pragmas and bytes: {_ms(bare)}",
            f"{ratio:.2f}",
            "at most 1.3",
            ratio <= 1.3,
            {"ours_s": median(ours), "bare_s": median(bare), "ratio": ratio},
        )
    ]
    for name, times in taken.items():
        figures.append(
            Figure(
                "",
                f"  beside it: {name}",
                "",
                f"{_ms(times)}; survives: {GUARANTEES[name]}",
                f"{measure.ratio_of(ours, times):.2f}",
                values={"seconds": median(times)},
            )
        )
    return figures


def _thousand_figures(taken: dict[str, list[float]]) -> list[Figure]:
    ours, bare = taken["spool"], taken["bare sqlite3"]
    share = 1 / measure.ratio_of(ours, bare)
    return [
        Figure(
            "3",
            "append of 1,000 rows at a time",
            f"{BATCH_ROWS / median(ours):,.0f} rows/s",
            f"bare sqlite3: {BATCH_ROWS / median(bare):,.0f} rows/s",
            f"{share:.2f}",
            "at least 0.8",
            share >= 0.8,
            {"ours_s": median(ours), "bare_s": median(bare), "share": share},
        )
    ]


def _ms(times: list[float]) -> str:
    return f"{median(times) * 1e3:.2f} ms"


def _notes(one: dict[str, list[float]]) -> list[str]:
    delete = one.get("spool in journal mode DELETE")
    text = f"{_ms(delete)}" if delete else ""
    return [
        "Rows 2, 3: bare sqlite3 is one table of (id, csv BLOB), BEGIN IMMEDIATE, INSERT, COMMIT, with the spool's own"
        " pragmas. The spool also stores a checksum, the CSV's offset, the time and the header's id."
        f" Journal mode DELETE instead of PERSIST would cost {text} (the same guarantee: three syncs, and a file"
        " created and unlinked for every append).",
    ]


# -- in the child ------------------------------------------------------------------------------------------------------


def one_row(folder: str, rounds: int, block: int) -> dict[str, list[float]]:
    """Seconds of one append, per contestant: the median of each block."""
    contestants = _contestants(Path(folder))
    rows = Rows()
    number = 0

    def timed(append: Append) -> float:
        nonlocal number
        times = []
        for _ in range(block):
            number += 1
            row = rows.combined(number)
            began_at = time.perf_counter()
            append(row)
            times.append(time.perf_counter() - began_at)
        return median(times)

    return measure.interleaved(
        {name: (lambda append=append: timed(append)) for name, append in contestants.items()}, rounds
    )


def thousand_rows(folder: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of one append of 1,000 rows, spool and bare."""
    rows = Rows()
    batches = [rows.block(at * BATCH_ROWS, BATCH_ROWS) for at in range(20)]

    def timed(append: Append) -> Callable[[], float]:
        waiting = iter(batches * (rounds // len(batches) + 1))

        def once() -> float:
            csv = next(waiting)
            began_at = time.perf_counter()
            append(csv)
            return time.perf_counter() - began_at

        return once

    path = Path(folder)
    return measure.interleaved(
        {"spool": timed(_spool(path / "many")), "bare sqlite3": timed(_bare(path / "many.db"))}, rounds
    )


def _contestants(folder: Path) -> dict[str, Append]:
    return {
        "spool": _spool(folder / "spools"),
        "bare sqlite3": _bare(folder / "bare.db"),
        "write + fdatasync": _plain_file(folder / "plain.csv"),
        "persist-queue ack queue": _persist_queue(folder / "persist-queue"),
        "litequeue": _litequeue(folder / "litequeue.db"),
        "spool in journal mode DELETE": _spool(folder / "delete", journal_mode="delete"),
    }


def _spool(folder: Path, *, journal_mode: str | None = None) -> Append:
    """The product: one batch, one transaction."""
    from benchmarks.spools import new_run
    from spool import Batch, Spool

    spool = Spool.create(folder, new_run())
    if journal_mode is not None:
        spool.connection.query(f"PRAGMA journal_mode = {journal_mode}")
    return lambda csv: spool.append([Batch(HEADER, csv)])


def _bare(path: Path) -> Append:
    from spool.database.connection import PRAGMAS

    db = sqlite3.connect(path, isolation_level=None)
    for name, text in PRAGMAS.items():
        db.execute(f"PRAGMA {name} = {text}")
    db.execute("CREATE TABLE batch (id INTEGER PRIMARY KEY, csv BLOB NOT NULL)")

    def append(csv: bytes) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO batch (csv) VALUES (?)", (csv,))
        db.execute("COMMIT")

    return append


def _plain_file(path: Path) -> Append:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append(csv: bytes) -> None:
        os.write(descriptor, csv)
        os.fdatasync(descriptor)

    return append


def _persist_queue(folder: Path) -> Append:
    import persistqueue

    put: Append = persistqueue.SQLiteAckQueue(str(folder), auto_commit=True).put
    return put


def _litequeue(path: Path) -> Append:
    from litequeue import LiteQueue

    queue = LiteQueue(str(path))
    return lambda csv: queue.put(csv.decode())
