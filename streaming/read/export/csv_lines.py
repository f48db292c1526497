"""CSV with one header line. With a single header the rows are the very bytes that were recorded."""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

from streaming.read.export.rows import RunRows


def write(rows: RunRows, out: BinaryIO) -> None:
    """All rows; where the header changed within the run, below the union of all columns, with empty fields."""
    headers = rows.headers()
    if len(headers) <= 1:
        out.writelines(headers)
        out.writelines(lines for _, lines in rows.batches())
        return
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    table = csv.DictWriter(text, rows.columns(), restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows.records())
    text.detach()
