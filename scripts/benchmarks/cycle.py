"""Row 1: the CPU of one upload cycle after a short and after a long run, feeder and uploader, beside the peer's."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import child, measure
from benchmarks.child import Child
from benchmarks.rows import Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import World

ROWS_PER_CYCLE = 60
FEED_PAUSE_S = 0.05
AT_LENGTH = 600_000
FLAT, CHEAPER, GROWTH_BYTES = 1.2, 300, 5e6


def measure_cycle(world: World) -> Measured:
    """Ours: runs of all lengths go on side by side. The peer: one process whose run grows, a few cycles at each length."""
    lengths = world.pick([1_000, 100_000, AT_LENGTH], [1_000, 10_000, 50_000])
    cycles = world.pick(12, 3)
    with world.far_end() as far_end, ExitStack() as stack:
        callers = [
            stack.enter_context(
                Child(
                    caller,
                    world.environment(),
                    **_filled(world, far_end.address(), length),
                    cycles=cycles,
                )
            )
            for length in lengths
        ]
        for each in callers:
            each.hear()
        for each in callers:
            each.tell("go")
        ours = [each.hear() for each in callers]
    with world.far_end() as far_end:
        address = far_end.address()
        peer = child.call(
            peer_cycles,
            world.environment(SENTINEL_API_URL=address["api_url"]),
            token=address["token"],
            s3_endpoint_url=address["s3_endpoint_url"],
            plan=list(zip(lengths, world.pick([5, 3, 2], [3, 2, 1]), strict=True)),
        )
    return _figures(lengths, ours, peer, cycles)


def _filled(world: World, address: dict[str, str], length: int) -> dict[str, Any]:
    """The caller's order. Another process has filled the spool, so that the caller's memory is its own."""
    folder = str(world.folder("cycle"))
    path = child.call(fill, world.environment(), folder=folder, address=address, recorded=length)
    return {"path": path, "folder": folder, "address": address, "recorded": length}


def _figures(lengths: list[int], ours: list[dict[str, Any]], peer: list[dict[str, Any]], cycles: int) -> Measured:
    cpu_s = [median(each["cycles_s"]) for each in ours]
    figures = [
        Figure(
            "" if at else "1",
            f"CPU of an upload cycle of {ROWS_PER_CYCLE} rows, {length:,} recorded before",
            f"{cpu_s[at] * 1e3:.1f} ms",
            f"resource-tracker: {peer[at]['cycle_s'] * 1e3:,.0f} ms, {peer[at]['peak_bytes'] / measure.MIB:,.0f} MiB",
            f"1/{peer[at]['cycle_s'] / cpu_s[at]:,.0f}",
            values={"ours_s": cpu_s[at], "peer_s": peer[at]["cycle_s"], "peer_peak_bytes": peer[at]["peak_bytes"]},
        )
        for at, length in enumerate(lengths)
    ]
    flat = cpu_s[-1] / cpu_s[0]
    cheaper = peer[-1]["cycle_s"] / cpu_s[-1]
    is_full = lengths[-1] == AT_LENGTH
    growth = ours[-1]["bytes"] - ours[0]["bytes"]
    last, first = f"{lengths[-1]:,}", f"{lengths[0]:,}"
    figures += [
        Figure("", f"  flat: {last} over {first}", "", "", f"{flat:.2f}", "at most 1.2", flat <= FLAT, {"ratio": flat}),
        Figure(
            "",
            f"  cheaper than the peer at {last}",
            "",
            "",
            f"1/{cheaper:,.0f}",
            "at most 1/300" if is_full else "(at 600,000, in a full run)",
            cheaper >= CHEAPER if is_full else None,
            {"times": cheaper},
        ),
        Figure(
            "",
            f"  memory (PSS) of feeder and uploader, {last} more than {first}",
            f"{growth / 1e6:+.1f} MB",
            f"resource-tracker: {(peer[-1]['peak_bytes'] - peer[0]['peak_bytes']) / 1e6:+,.0f} MB",
            "",
            "under 5 MB",
            growth < GROWTH_BYTES,
            {"growth_bytes": growth},
        ),
    ]
    return Measured(
        figures,
        [
            f"Row 1: ours is {ROWS_PER_CYCLE} looks of the feeder at a growing CSV, with one append each, and one cycle of"
            f" the uploader, CPU of both processes (median of {cycles} cycles, at a faster pace; the runs of all lengths at"
            " the same time). The rows before are there one per batch, sent in segments of a minute each. The peer's is"
            " `_upload_batch` with `_update_combined_csv` on the same rows; its put function uploads to the same far end,"
            " only the URL is replaced. Memory of the peer: the peak of its process, which is the user's."
        ],
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def fill(folder: str, address: dict[str, str], recorded: int) -> str:
    """A spool, and the CSV it comes from, in which so many rows are recorded and sent. Returns its path."""
    from benchmarks import spools

    path = spools.recorded(
        Path(folder) / "spools",
        spools.new_run(**address),
        Rows(),
        row_count=recorded,
        batch_rows=1,
        sent_rows=ROWS_PER_CYCLE,
        csv_path=Path(folder) / "rows.csv",
    )
    return str(path)


def caller(path: str, folder: str, address: dict[str, str], recorded: int, cycles: int) -> dict[str, Any]:
    """Go on with a run of which so many rows are recorded and sent, as StreamingManager does. CPU of each cycle."""
    from spool import Spool, system
    from streaming.collect.csv_tail import CsvFeeder
    from streaming.record.plan import Delivery
    from streaming.record.recorder import Recorder

    rows = Rows()
    csv_path = Path(folder) / "rows.csv"
    spool = Spool(Path(path))
    spool.take_over(system.identify(os.getpid()))
    child.say("ready")
    child.listen()
    delivery = Delivery(**address, upload_interval_s=ROWS_PER_CYCLE * FEED_PAUSE_S, linger_s=0.0)
    recorder = Recorder.adopt(spool, delivery)
    while (uploader := recorder.uploader_pid) is None:
        time.sleep(0.01)
    feeder = CsvFeeder(spool, csv_path)
    number, taken, last_seq = recorded, [], 0
    feeding_s, uploading_s = 0.0, 0.0
    with csv_path.open("ab", buffering=0) as file:
        while len(taken) <= cycles:
            file.write(rows.combined(number))
            number += 1
            began_s = time.thread_time()
            feeder.take()
            recorder.tend()
            feeding_s += time.thread_time() - began_s
            sent = spool.last_sent()
            if sent is not None and sent.seq != last_seq:
                last_seq, now_s = sent.seq, measure.cpu_s(uploader)
                taken.append(feeding_s + now_s - uploading_s)
                feeding_s, uploading_s = 0.0, now_s
            time.sleep(FEED_PAUSE_S)
    memory = measure.pss_bytes(os.getpid()) + measure.pss_bytes(uploader)
    return {"cycles_s": taken[1:], "bytes": memory}


def peer_cycles(token: str, s3_endpoint_url: str, plan: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """CPU of one cycle of the peer at each length, and its peak memory so far."""
    from benchmarks.peer import Peer

    peer = Peer(token=token, s3_endpoint_url=s3_endpoint_url)
    found = []
    for length, cycles in plan:
        peer.record(length - peer.row_count)
        peer.catch_up()
        times = []
        for _ in range(cycles):
            peer.record(ROWS_PER_CYCLE)
            began_s = time.process_time()
            peer.cycle()
            times.append(time.process_time() - began_s)
        found.append({"cycle_s": median(times), "peak_bytes": measure.peak_rss_bytes()})
    return found
