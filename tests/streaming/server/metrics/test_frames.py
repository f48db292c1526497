"""Objects become numbers, whatever is in them; and the file that keeps the numbers."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from streaming.server.metrics.cache import FrameFile, evict
from streaming.server.metrics.frames import Frame, read_frame
from streaming.server.metrics.rows import RunRows


def frame(text: str | bytes, key: str = "0001.csv.gz", uploaded_at: float = 0.0) -> Frame:
    plain = text.encode() if isinstance(text, str) else text
    return read_frame(gzip.compress(plain), key=key, etag=key, size_bytes=len(plain), uploaded_at=uploaded_at)


def columns(found: Frame) -> dict[str, list[float]]:
    return {name: found.column(name).tolist() for name in found.names}


def test_regular_rows_become_columns() -> None:
    text = '"timestamp","system_cpu_usage"\n1.5,2\n2.5,3\n'
    found = frame(text)
    assert columns(found) == {"timestamp": [1.5, 2.5], "system_cpu_usage": [2.0, 3.0]}
    assert (found.row_count, found.error) == (2, None)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert found.time_range == (1.5, 2.5)


@pytest.mark.parametrize(
    "text",
    [
        'timestamp,name,a\n1,"x, y",2\n2,z,3\n',
        'timestamp,name,a\n1,"a ""quoted"" word",2\n2,z,3\n',
        "timestamp,name,a\r\n1,x,2\r\n2,z,3\r\n",
        "timestamp,name,a\n1,x,2\n\n2,z,3",
    ],
)
def test_text_columns_are_left_out_of_the_numbers_but_not_of_the_header(text: str) -> None:
    found = frame(text)
    assert found.header == ("timestamp", "name", "a")
    assert columns(found) == {"timestamp": [1.0, 2.0], "a": [2.0, 3.0]}


def test_cells_that_are_no_finite_number_are_nan() -> None:
    found = frame("timestamp,a,b\n1,,inf\n2,7,nan\n3,x,1e999\n")
    np.testing.assert_equal(found.column("a"), [np.nan, 7.0, np.nan])
    assert np.isnan(found.column("b")).all()


def test_ragged_rows_are_read_as_far_as_they_go() -> None:
    found = frame("timestamp,a\n1\n2,5,6\n3,7\n")
    np.testing.assert_equal(found.column("a"), [np.nan, 5.0, 7.0])
    assert found.row_count == 3


@pytest.mark.parametrize("text", ["", "\n", "timestamp,a\n", "timestamp,a"])
def test_no_rows(text: str) -> None:
    found = frame(text)
    assert (found.row_count, found.error, found.time_range) == (0, None, None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"timestamp,a\n1,2\n", "not gzip"),
        (gzip.compress(b"timestamp,a\n1,2\n")[:-5], "cut off"),
        (gzip.compress(b"timestamp,a\n1,\xff\xfe\n3\n"), "utf-8"),
    ],
    ids=["not gzip", "cut off", "not UTF-8"],
)
def test_what_cannot_be_read_is_an_error_that_says_why(content: bytes, why: str) -> None:
    found = read_frame(content, key="k", etag="e", size_bytes=1, uploaded_at=0.0)
    assert found.row_count == 0
    assert found.error is not None
    assert why in found.error


def test_a_bomb_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.server.metrics.frames.MAX_PLAIN_BYTES", 1000)
    found = frame("a\n" + "1\n" * 1000)
    assert found.error == "more than 1000 bytes when decompressed"


def same(left: Frame, right: Frame) -> bool:
    return left == right and np.array_equal(left.data, right.data, equal_nan=True)


def test_the_file_gives_back_what_was_appended(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "cache" / "a.frames")
    frames = [frame("timestamp,a\n1,2\n", "1"), frame("timestamp\n", "2"), frame(b"\xff\n1\n", "3")]
    file.append(frames[:1])
    file.append(frames[1:])
    found = file.load()
    assert list(found) == ["1", "2", "3"]
    assert all(same(found[made.key], made) for made in frames)
    assert (tmp_path / "cache" / "a.frames").stat().st_mode & 0o777 == 0o600


def test_a_later_record_of_a_key_replaces_the_earlier(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "a.frames")
    file.append([frame("a\n1\n", "1"), frame("a\n1\n2\n", "1")])
    assert file.load()["1"].row_count == 2


def test_a_torn_tail_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    FrameFile(path).append([frame("timestamp,a\n1,2\n", "1")])
    whole = path.stat().st_size
    FrameFile(path).append([frame("timestamp,a\n3,4\n", "2")])
    content = path.read_bytes()
    for size in range(whole, len(content), 7):
        path.write_bytes(content[:size])
        assert list(FrameFile(path).load()) == ["1"]
        assert path.stat().st_size == whole
    FrameFile(path).append([frame("timestamp,a\n5,6\n", "3")])
    assert list(FrameFile(path).load()) == ["1", "3"]


def test_eviction_removes_the_files_used_longest_ago(tmp_path: Path) -> None:
    import os

    cache = tmp_path / "cache"
    cache.mkdir()
    for number, name in enumerate("abc"):
        path = cache / f"{name}.frames"
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    evict(cache, limit_bytes=250)
    assert sorted(path.name for path in cache.iterdir()) == ["b.frames", "c.frames"]
    evict(tmp_path / "missing", limit_bytes=1)


def test_rows_are_put_in_the_order_of_time_and_those_without_a_time_left_out() -> None:
    rows = RunRows([frame("timestamp,a\n5,50\n6,60\n"), frame("b,timestamp\n1,2\n7,\n9,5.5\n")])
    assert rows.timestamps.tolist() == [2.0, 5.0, 5.5, 6.0]
    np.testing.assert_equal(rows.column("a"), [np.nan, 50.0, np.nan, 60.0])
    np.testing.assert_equal(rows.column("b"), [1.0, np.nan, 9.0, np.nan])
    assert (rows.names, rows.header) == (["a", "b"], ["timestamp", "a", "b"])
    assert rows.row_count == 5


def test_growing_rows_are_those_made_at_once() -> None:
    frames = [frame(f"timestamp,a\n{number},{number}\n", str(number)) for number in range(20)]
    frames.insert(10, frame("timestamp,b\n10.5,1\n", "other"))
    growing = RunRows(())
    for count in range(1, len(frames) + 1):
        growing = RunRows(frames[:count], before=growing)
    at_once = RunRows(frames)
    np.testing.assert_equal(growing.column("a"), at_once.column("a"))
    np.testing.assert_equal(growing.timestamps, at_once.timestamps)
    assert len(growing._blocks) < 12
    replaced = RunRows(frames[:3] + frames[4:], before=growing)
    assert replaced.timestamps.tolist() == RunRows(frames[:3] + frames[4:]).timestamps.tolist()


@pytest.mark.parametrize("text", ["\ntimestamp,host\n1,foo\n", 'timestamp,"no\nte"\n1,foo\n'])
def test_header_that_is_not_the_first_line_is_no_exception(text: str) -> None:
    found = frame(text)
    assert (found.error, found.row_count) == (None, 1)
    assert columns(found)["timestamp"] == [1.0]
