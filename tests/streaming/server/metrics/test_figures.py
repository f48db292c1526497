"""Figures from rows, however odd."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from streaming.server.metrics import parts
from streaming.server.metrics.parse import ObjectFacts, parse_texts
from streaming.server.metrics.rows import StoredRows


def figures(*texts: str) -> dict[str, Any]:
    objects = [(ObjectFacts(f"{number}.csv.gz", "", 0, 0.0), text.encode()) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "00000001.parquet"
        parts.write(path, *parse_texts(objects))
        return StoredRows([parts.open_part(path)]).figures


def test_several_texts_with_different_columns_add_up() -> None:
    found = figures("timestamp,system_cpu_usage\n5,1\n6,2\n", 'process_memory_mib,"timestamp"\n100,7\n', "")
    assert found["row_count"] == 3
    assert (found["first_timestamp"], found["last_timestamp"], found["duration_s"]) == (5.0, 7.0, 2.0)
    assert found["system_cpu_usage"] == {"average": 1.5, "peak": 2.0}
    assert found["process_memory_mib"] == {"average": 100.0, "peak": 100.0}


def test_cells_that_are_no_finite_numbers_are_left_out() -> None:
    found = figures('timestamp,system_cpu_usage\nx,\n1,nan\n2,inf\n3\n4,"a ""b""",9\n5,2\n')
    assert found["row_count"] == 6
    assert found["system_cpu_usage"] == {"average": 2.0, "peak": 2.0}
    assert found["duration_s"] == 4.0


def test_what_is_counted_has_a_total() -> None:
    found = figures("timestamp,system_net_recv_bytes\n1,10\n2,20\n")
    assert found["system_net_recv_bytes"] == {"total": 30.0}


def test_no_rows_no_figures() -> None:
    nothing = {"row_count": 0, "first_timestamp": None, "last_timestamp": None, "duration_s": None}
    assert figures() == nothing
    assert figures("") == nothing
    assert figures("timestamp,system_cpu_usage\n") == nothing


@pytest.mark.parametrize(
    "text", ["timestamp,system_cpu_usage\n1,1e308\n2,1e308\n", "timestamp,a\n-1e308,1e308\n1e308,-1e308\n"]
)
def test_figures_beyond_all_numbers_are_left_out(text: str) -> None:
    json.dumps(figures(text), allow_nan=False)
