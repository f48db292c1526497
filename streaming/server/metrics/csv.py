"""A run's rows as one CSV text, object by object, so that its size does not matter."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from streaming.server.gunzip import gunzip
from streaming.server.metrics.frames import MAX_PLAIN_BYTES, Frame
from streaming.server.metrics.reader import INLINE_KEY
from streaming.server.metrics.rows import RunRows
from streaming.server.storage.objects import ObjectStore
from streaming.server.storage.runs import Run, RunStore


def stream_csv(run: Run, rows: RunRows, runs: RunStore, objects: ObjectStore) -> Iterator[bytes]:
    """One header line with every object's columns, then the rows as they are in the objects, in their order.

    Objects that could not be read before are left out; if one cannot be read now, the exception cuts the answer off, so
    that the client sees it.
    """
    frames = [frame for frame in rows.frames if frame.error is None and frame.header]
    header = rows.header
    for index, frame in enumerate(frames):
        plain = _plain(run, frame, runs, objects)
        if list(frame.header) == header:
            yield _with_newline(plain if index == 0 else plain.partition(b"\n")[2])
        else:
            yield _rearranged(plain.decode(), header, with_header=index == 0)


def _plain(run: Run, frame: Frame, runs: RunStore, objects: ObjectStore) -> bytes:
    if frame.key == INLINE_KEY:
        return runs.inline_csv(run.run_id) or b""
    return gunzip(objects.read(frame.key), limit=MAX_PLAIN_BYTES)


def _with_newline(text: bytes) -> bytes:
    return text if text.endswith(b"\n") or not text else text + b"\n"


def _rearranged(text: str, header: list[str], *, with_header: bool) -> bytes:
    """The rows of an object with other columns, put under the common header."""
    output = io.StringIO(newline="")
    writer = csv.DictWriter(output, header, lineterminator="\n", extrasaction="ignore")
    if with_header:
        writer.writeheader()
    for row in csv.DictReader(io.StringIO(text, newline="")):
        row.pop(None, None)
        writer.writerow(row)
    return output.getvalue().encode()
