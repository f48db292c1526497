"""Row 4: draining a backlog to a real local S3, beside gzip and put_object of the same bytes and nothing else."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import child, measure, spools
from benchmarks.rows import HEADER, Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import World

MEMORY_BYTES, GROWTH_BYTES = 100e6, 5e6
AT_ONCE = {1000: 1.3, 1: 2.0}  # rows per append, and the ratio to reach


def measure_drain(world: World) -> Measured:
    """Fresh processes in turn: the bare one, and a drain of either backlog. A smaller backlog for the memory."""
    row_count = world.pick(600_000, 120_000)
    folder = world.folder("drain")
    with _server(world) as server:
        address = {"token": server.token, "api_url": server.api_url, "s3_endpoint_url": server.s3_endpoint_url}
        filled = {at_once: _fill(world, folder / str(at_once), row_count, at_once) for at_once in AT_ONCE}
        fewer = world.pick(100_000, 80_000)  # more than one segment, or the comparison would be of segments
        small = {at_once: _fill(world, folder / f"small-{at_once}", fewer, at_once) for at_once in AT_ONCE}
        peaks: dict[Any, list[int]] = {}
        contestants: dict[str, Callable[[], float]] = {
            "bare": lambda: child.call(bare, world.environment(), address=address, row_count=row_count)["wall_s"]
        }
        for at_once in AT_ONCE:
            contestants[str(at_once)] = lambda at_once=at_once: _drained(
                world, filled[at_once], address, peaks.setdefault(at_once, [])
            )
        taken = measure.interleaved(contestants, world.pick(3, 1))
        for at_once in AT_ONCE:
            _drained(world, small[at_once], address, peaks.setdefault(f"small {at_once}", []))
    return Measured([*_time_figures(taken, row_count), _memory_figure(peaks, row_count, fewer)], [_note(row_count)])


def _server(world: World) -> Any:
    """A whole server of our own: the API, and SeaweedFS as the S3."""
    from streaming.server.process.embedded import embedded

    return embedded(world.folder("server"))


def _fill(world: World, folder: Path, row_count: int, at_once: int) -> Path:
    text = child.call(fill, world.environment(), folder=str(folder), row_count=row_count, at_once=at_once)
    return Path(text)


def _drained(world: World, spool: Path, address: dict[str, str], peaks: list[int]) -> float:
    """Seconds to drain a copy of the spool."""
    folder = world.folder("backlog")
    shutil.copy(spool, folder / spool.name)
    _make_new(folder / spool.name)
    answer = child.call(drain, world.environment(), path=str(folder / spool.name), address=address)
    shutil.rmtree(folder)
    peaks.append(answer["peak_bytes"])
    wall_s: float = answer["wall_s"]
    return wall_s


def _make_new(path: Path) -> None:
    """Another run for the service: registered under the same id, it would find its own objects there already."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE run SET spool_id = ?", (secrets.token_hex(16),))
    with path.open("rb") as file:  # a copy that has not reached the disk would be paid for by the drain's first sync
        os.fsync(file.fileno())


def _time_figures(taken: dict[str, list[float]], row_count: int) -> list[Figure]:
    names = {1000: "1,000 rows at a time", 1: "one row at a time"}
    bare_s = median(taken["bare"])
    figures = []
    for number, (at_once, limit) in enumerate(AT_ONCE.items()):
        ours = taken[str(at_once)]
        ratio = measure.ratio_of(ours, taken["bare"])
        figures.append(
            Figure(
                "" if number else "4",
                f"drain of {row_count:,} rows appended {names[at_once]}",
                f"{median(ours):.1f} s",
                f"gzip in memory + put_object: {bare_s:.1f} s",
                f"{ratio:.2f}",
                f"at most {limit}",
                ratio <= limit,
                {"ours_s": median(ours), "bare_s": bare_s, "ratio": ratio},
            )
        )
    return figures


def _memory_figure(peaks: dict[Any, list[int]], row_count: int, fewer: int) -> Figure:
    peak = max(max(peaks[at_once]) for at_once in AT_ONCE)
    growth = max(median(peaks[at_once]) - median(peaks[f"small {at_once}"]) for at_once in AT_ONCE)
    return Figure(
        "",
        "  peak resident memory of the drain",
        f"{peak / 1e6:.0f} MB",
        f"{growth / 1e6:+.1f} MB from {fewer:,} to {row_count:,} rows",
        "",
        "under 100 MB, flat",
        peak < MEMORY_BYTES and growth < GROWTH_BYTES,
        {"peak_bytes": peak, "growth_bytes": growth},
    )


def _note(row_count: int) -> str:
    size = row_count * 181 // 1_000_000
    return (
        f"Row 4: {size} MB of CSV to SeaweedFS on loopback, with the server's own short-lived credentials. The bare process"
        " has the CSV in memory and does, piece by piece of 8 MiB, zlib at the same level (6) and put_object with a default"
        " boto3 client; the drain also reads and verifies every batch, seals and marks each segment in a durable transaction."
        " Not counted on either side: imports, and the finish (the server computes its statistics from all objects in it)."
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def fill(folder: str, row_count: int, at_once: int) -> str:
    """A backlog of a run whose tracker is gone."""
    new = spools.new_run()
    return str(spools.recorded(Path(folder), new, Rows(), row_count=row_count, batch_rows=at_once))


def drain(path: str, address: dict[str, str]) -> dict[str, Any]:
    """What `tracker-stream drain` does for a run that still lives: deliver all that is there, without the finish."""
    import logging

    from spool import Spool, system
    from streaming.upload.drain import Drain
    from streaming.upload.model import Outcome, Terms, Wishes

    logging.disable()
    with closing(Spool(Path(path))) as spool:
        spool.take_over(system.identify(os.getpid()))
    began_at = time.perf_counter()
    (result,) = Drain(Terms(**address), Wishes(), jobs=1).run([Path(path)])
    wall_s = time.perf_counter() - began_at
    outcome = result.outcome
    if outcome is not Outcome.UPLOADED:
        sys.exit(f"the drain ended as {outcome}")
    return {"wall_s": wall_s, "peak_bytes": measure.peak_rss_bytes()}


def bare(address: dict[str, str], row_count: int) -> dict[str, Any]:
    """gzip of the same bytes in memory, and put_object of the results."""
    import boto3
    from botocore.config import Config

    from spool.spool import SEGMENT_MAX_BYTES
    from streaming.clients.sentinel import SentinelApi
    from streaming.upload.delivery import compress

    csv = Rows().block(0, row_count)
    began_at = time.perf_counter()
    service = SentinelApi(address["token"], base_url=address["api_url"])
    registration, credentials = service.register({}, idempotency_key=f"bench-{time.time_ns()}")
    client = boto3.client(
        "s3",
        endpoint_url=address["s3_endpoint_url"],
        region_name=credentials.region or "us-east-1",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.session_token,
        config=Config(s3={"addressing_style": "path"}),
    )
    bucket, _, prefix = registration.upload_uri_prefix.removeprefix("s3://").partition("/")
    for number, at in enumerate(range(0, len(csv), SEGMENT_MAX_BYTES)):
        piece = HEADER + csv[at : at + SEGMENT_MAX_BYTES]
        body = compress([piece], csv_bytes=len(piece))
        client.put_object(Bucket=bucket, Key=f"{prefix}/{number:08d}.csv.gz", Body=body)
    return {"wall_s": time.perf_counter() - began_at}
