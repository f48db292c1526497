"""Row 10: what goes over the wire, per row and per hour, beside resource-tracker, counted by the far end."""

from __future__ import annotations

from typing import Any

from benchmarks import child
from benchmarks.rows import HEADER, Rows
from benchmarks.table import Figure, Measured
from benchmarks.world import World

ROWS_PER_CYCLE = 60
CYCLES_PER_HOUR = 60


def measure_upload(world: World) -> Measured:
    """The same rows, a minute of them per upload cycle, through either; the far end's journal tells."""
    cycles = world.pick(60, 20)
    found = {}
    for name, upload in {"ours": ours, "peer": peer}.items():
        with world.far_end() as far_end:
            child.call(
                upload,
                world.environment(SENTINEL_API_URL=far_end.remote.api_url),
                address=far_end.address(),
                cycles=cycles,
            )
            found[name] = far_end.puts()
    return _figures(found["ours"], found["peer"], cycles)


def _figures(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], cycles: int) -> Measured:
    per_row = [sum(put["body_bytes"] for put in puts) / (cycles * ROWS_PER_CYCLE) for puts in (mine, theirs)]
    per_hour = [len(puts) / cycles * CYCLES_PER_HOUR for puts in (mine, theirs)]
    return Measured(
        [
            Figure(
                "10",
                "bytes uploaded per row",
                f"{per_row[0]:.2f}",
                f"resource-tracker: {per_row[1]:.2f}",
                f"{per_row[0] / per_row[1]:.3f}",
                "no more",
                per_row[0] <= per_row[1],
                {"ours": per_row[0], "peer": per_row[1]},
            ),
            Figure(
                "",
                "PUTs per hour at a 60 s interval",
                f"{per_hour[0]:.0f}",
                f"resource-tracker: {per_hour[1]:.0f}",
                f"{per_hour[0] / per_hour[1]:.2f}",
                "no more",
                per_hour[0] <= per_hour[1],
                {"ours": per_hour[0], "peer": per_hour[1]},
            ),
        ],
        [
            f"Row 10: {cycles} cycles of {ROWS_PER_CYCLE} rows, called one after the other; bodies of the PUTs as the far end"
            " received them, one header line in each object."
        ],
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def ours(address: dict[str, str], cycles: int) -> str:
    """The uploader's cycles, without its waits."""
    from benchmarks.spools import new_run
    from spool import Batch, Spool, directory
    from streaming.upload import delivery
    from tests.support.clients import Clients

    spool = Spool.create(directory.chosen(), new_run(**address))
    clients = Clients.connect(**address)
    rows = Rows()
    for cycle in range(cycles):
        spool.append([Batch(HEADER, rows.block(cycle * ROWS_PER_CYCLE, ROWS_PER_CYCLE))])
        delivery.deliver(spool, clients.service, clients.store)
    return "done"


def peer(address: dict[str, str], cycles: int) -> str:
    """The peer's cycles, without its waits."""
    from benchmarks.peer import Peer

    uploading = Peer(token=address["token"], s3_endpoint_url=address["s3_endpoint_url"])
    for _ in range(cycles):
        uploading.record(ROWS_PER_CYCLE)
        uploading.cycle()
    return "done"
