"""What of a run's rows goes into a page: numbers in the order of time, whatever the rows look like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pytest

from streaming.read.export.chart_data import MOST_POINTS, STRETCHES, ChartNumbers
from streaming.read.export.rows import RunRows

HEADER = b'"timestamp","system_cpu_usage","note","process_disk_read_bytes"\n'


class Rows(RunRows):
    """Batches without a spool."""

    def __init__(self, *batches: tuple[bytes, bytes]) -> None:
        self._batches = batches

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._batches)


def read(*lines: str, header: bytes = HEADER) -> ChartNumbers:
    return ChartNumbers.read(Rows((header, "".join(f"{line}\n" for line in lines).encode())))


def known(numbers: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(number) else number for number in numbers]


def test_only_charted_columns_with_a_number_are_kept() -> None:
    numbers = read('1.5,0.5,"a",', '2.5,1.5,"b",')
    assert list(numbers.times) == [1.5, 2.5]
    assert {name: list(values) for name, values in numbers.columns.items()} == {"system_cpu_usage": [0.5, 1.5]}


def test_what_is_no_finite_number_is_missing_and_a_row_without_a_time_is_only_counted() -> None:
    numbers = read("1,0.5,,7", "2,nan,,inf", "3,x", "x,1,,1", "4,1e999,,9")
    assert numbers.row_count == 5
    assert list(numbers.times) == [1, 2, 3, 4]
    assert known(numbers.columns["system_cpu_usage"]) == [0.5, None, None, None]
    assert known(numbers.columns["process_disk_read_bytes"]) == [7, None, None, 9]
    assert numbers.figures() == {
        "system_cpu_usage": {"average": 0.5, "peak": 0.5},
        "process_disk_read_bytes": {"total": 16},
    }


def test_a_clock_that_was_set_back_leaves_no_disorder() -> None:
    numbers = read("10,1,,", "5,2,,", "7,3,,")
    assert list(numbers.times) == [5, 7, 10]
    assert list(numbers.columns["system_cpu_usage"]) == [2, 3, 1]


def test_a_header_that_changes_leaves_each_number_in_its_column() -> None:
    other = b'"process_cpu_usage","timestamp"\n'
    numbers = ChartNumbers.read(Rows((HEADER, b"1,0.5,,\n"), (other, b"0.25,2\n")))
    assert known(numbers.columns["system_cpu_usage"]) == [0.5, None]
    assert known(numbers.columns["process_cpu_usage"]) == [None, 0.25]


def test_no_rows_are_no_numbers() -> None:
    numbers = ChartNumbers.read(Rows())
    assert (numbers.row_count, numbers.first_time, numbers.interval_s, numbers.figures()) == (0, None, None, {})
    assert numbers.stretches().packed()


def test_more_rows_than_a_page_carries_become_stretches_with_their_extremes() -> None:
    count = MOST_POINTS + 1
    numbers = read(*(f"{n},{100 if n == 777 else -100 if n == 40_000 else n % 2},,1" for n in range(count)))
    stretches = numbers.stretches()
    mean, highest, lowest = stretches.columns["system_cpu_usage"]
    assert stretches.kinds == ["mean", "max", "min"]
    assert len(stretches.times) == len(mean) == len(highest) == len(lowest) <= STRETCHES
    assert (max(highest), min(lowest)) == (100, -100)
    assert sum(stretches.columns["process_disk_read_bytes"][0]) == pytest.approx(len(mean))
    assert list(stretches.times) == sorted(stretches.times)
