"""Spools to measure with: new ones, and ones in which a long run has been recorded already. Runs in children."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.rows import HEADER, Rows
from spool import Batch, NewRun, Spool, system

INSERTED_AT_ONCE = 5000  # rows per transaction while filling: how they are stored does not depend on it


def new_run(token: str | None = None, *, api_url: str = "", s3_endpoint_url: str | None = None) -> NewRun:
    """A run of this process, with host and cloud given, so that nothing is discovered."""
    return NewRun(
        tracker=system.identify(os.getpid()),
        started_at=time.time(),
        token=token,
        host_info={},
        cloud_info={},
        api_url=api_url,
        s3_endpoint_url=s3_endpoint_url,
    )


def recorded(
    folder: Path,
    new: NewRun,
    rows: Rows,
    *,
    row_count: int,
    batch_rows: int,
    sent_rows: int = 0,
    csv_path: Path | None = None,
) -> Path:
    """A spool that holds `row_count` rows in batches; all marked sent in segments of `sent_rows`, unless that is 0.

    With `csv_path`, the rows are taken over from that file, which is written too.

    Filled in memory (where a sync costs nothing) and copied to `folder`.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        spool = Spool.create(Path(scratch) / "spools", new)
        step = max(INSERTED_AT_ONCE, batch_rows)
        for first in range(0, row_count, step):
            last = min(first + step, row_count)
            batches = [
                Batch(HEADER, rows.block(at, min(batch_rows, last - at))) for at in range(first, last, batch_rows)
            ]
            spool.append(batches, csv_offset=_extend(csv_path, batches))
            if sent_rows and first == 0:
                _send_first(spool, batches[:sent_rows])
        if sent_rows:
            _send_others(spool, row_count, sent_rows)
        spool.close()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / spool.path.name
        shutil.copyfile(spool.path, path)
        path.chmod(0o600)
    return path


def _extend(csv_path: Path | None, batches: list[Batch]) -> int | None:
    """Write the batches to the CSV file as well. Returns its size."""
    if csv_path is None:
        return None
    with csv_path.open("ab") as file:
        if file.tell() == 0:
            file.write(HEADER)
        file.writelines(batch.rows for batch in batches)
        return file.tell()


def _send_first(spool: Spool, batches: list[Batch]) -> None:
    """Seal exactly these batches as a segment, and mark it sent."""
    segment = next(iter(spool.seal_pending(max_bytes=sum(len(batch.rows) for batch in batches))))
    spool.mark_sent(segment, uri="s3://bench/team/run/00000001-0123456789ab.csv.gz", etag="0" * 32)


def _send_others(spool: Spool, row_count: int, sent_rows: int) -> None:
    """All further one-row batches, in segments after the pattern of the first: nobody reads a sent segment's rows again."""
    with spool.connection.transaction() as db:
        cursor = db.execute("SELECT * FROM segment")
        names = [column[0] for column in cursor.description]
        pattern = dict(zip(names, cursor.fetchone(), strict=True))
        segments = (
            {**pattern, "seq": seq, "first_batch_id": first, "last_batch_id": min(first + sent_rows - 1, row_count)}
            for seq, first in enumerate(range(sent_rows + 1, row_count + 1, sent_rows), start=2)
        )
        values = ", ".join(f":{name}" for name in names)
        db.executemany(f"INSERT INTO segment ({', '.join(names)}) VALUES ({values})", segments)  # noqa: S608
