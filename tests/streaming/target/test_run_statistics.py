"""Figures from rows, however odd."""

from __future__ import annotations

from streaming.target.run_statistics import statistics_of


def test_several_texts_with_different_columns_add_up() -> None:
    figures = statistics_of(
        ["timestamp,system_cpu_usage\n5,1\n6,2\n", 'process_memory_mib,"timestamp"\n100,7\n', ""]
    ).as_json()
    assert figures["row_count"] == 3
    assert (figures["first_timestamp"], figures["last_timestamp"], figures["duration_s"]) == (5.0, 7.0, 2.0)
    assert figures["system_cpu_usage"] == {"average": 1.5, "peak": 2.0}
    assert figures["process_memory_mib"] == {"average": 100.0, "peak": 100.0}


def test_cells_that_are_no_finite_numbers_are_left_out() -> None:
    figures = statistics_of(['timestamp,system_cpu_usage\nx,\n1,nan\n2,inf\n3\n4,"a ""b""",9\n5,2\n']).as_json()
    assert figures["row_count"] == 6
    assert figures["system_cpu_usage"] == {"average": 2.0, "peak": 2.0}
    assert figures["duration_s"] == 4.0


def test_no_rows_no_figures() -> None:
    assert statistics_of([]).as_json() == {
        "row_count": 0,
        "first_timestamp": None,
        "last_timestamp": None,
        "duration_s": None,
    }
