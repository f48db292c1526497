"""Objects become columns of numbers, whatever is in them; and the parts that keep them."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streaming.server.metrics import parts
from streaming.server.metrics.folder import evict
from streaming.server.metrics.parse import LINE, ObjectFacts, parse_objects
from streaming.server.metrics.rows import StoredRows
from streaming.tables.csv_text import parse_columns, split_header


def content(text: str | bytes) -> bytes:
    return gzip.compress(text.encode() if isinstance(text, str) else text)


def facts_of(key: str, uploaded_at: float = 0.0) -> ObjectFacts:
    return ObjectFacts(key, f"etag of {key}", 1, uploaded_at)


def parse(*contents: bytes) -> tuple[list[ObjectFacts], pa.Table]:
    return parse_objects([(facts_of(f"{number:04d}.csv.gz"), text) for number, text in enumerate(contents, 1)])


def one(text: str | bytes) -> tuple[ObjectFacts, dict[str, list[Any]]]:
    (facts,), table = parse(content(text))
    return facts, table.drop_columns([LINE]).to_pydict()


def part_of(directory: Path, *texts: str, number: int = 1, first_key: int = 1) -> parts.Part:
    objects = [(facts_of(f"{key:04d}.csv.gz"), content(text)) for key, text in enumerate(texts, first_key)]
    path = parts.numbered(directory, number)
    parts.write(path, *parse_objects(objects))
    return parts.open_part(path)


def csv_of(*found: parts.Part) -> str:
    return b"".join(StoredRows(found).csv()).decode()


def test_regular_rows_become_columns() -> None:
    text = '"timestamp","system_cpu_usage"\n1.5,2\n2.5,3\n'
    facts, columns = one(text)
    assert columns == {"timestamp": [1.5, 2.5], "system_cpu_usage": [2.0, 3.0]}
    assert (facts.row_count, facts.error, facts.first, facts.last) == (2, None, 1.5, 2.5)
    assert facts.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        'timestamp,name,a\n1,"x, y",2\n2,z,3\n',
        'timestamp,name,a\n1,"a ""quoted"" word",2\n2,z,3\n',
        'timestamp,name,a\n1,"two\nlines",2\n2,z,3\n',
        "timestamp,name,a\r\n1,x,2\r\n2,z,3\r\n",
        "timestamp,name,a\n1,x,2\n\n2,z,3",
    ],
)
def test_text_columns_are_left_out_of_the_numbers_but_not_of_the_lines(text: str) -> None:
    (facts,), table = parse(content(text))
    assert table.drop_columns([LINE]).to_pydict() == {"timestamp": [1.0, 2.0], "a": [2.0, 3.0]}
    assert facts.header.rstrip("\r") == "timestamp,name,a"
    body = text.partition("\n")[2].replace("\n\n", "\n").encode()
    assert b"".join(table.column(LINE).to_pylist()) == body + (b"" if body.endswith(b"\n") else b"\n")


def test_only_a_line_feed_ends_a_row_however_many_objects_are_read_together() -> None:
    texts = [b"time\ntime\rtime", b"time\n\n\n", b'time\n"a\rb"\r\nc\n']
    facts, table = parse(*(content(text) for text in texts))
    assert [each.row_count for each in facts] == [1, 0, 2]
    assert table.column(LINE).to_pylist() == [b"time\rtime\n", b'"a\rb"\r\n', b"c\n"]
    assert [parse(content(text))[0][0].row_count for text in texts] == [1, 0, 2]
    header, body = split_header(texts[2])
    assert parse_columns(header, body).to_pydict() == {"time": ["a\rb", "c"]}


def test_cells_that_are_no_finite_number_are_null() -> None:
    _, columns = one("timestamp,a,system_cpu_usage,b\n1,,inf,x\n2,7,nan,\n3,x,1e999,\n")
    assert columns == {"timestamp": [1, 2, 3], "a": [None, 7.0, None], "system_cpu_usage": [None, None, None]}


def test_ragged_rows_are_read_as_far_as_they_go() -> None:
    facts, columns = one("timestamp,a\n1\n2,5,6\n3,7\n")
    assert (columns["a"], facts.row_count) == ([None, 5.0, 7.0], 3)


@pytest.mark.parametrize("text", ["", "\n", "timestamp,a\n", "timestamp,a"])
def test_no_rows(text: str) -> None:
    facts, _ = one(text)
    assert (facts.row_count, facts.error, facts.first) == (0, None, None)


def test_what_is_no_gzip_is_an_error_that_says_why_and_spoils_no_neighbour() -> None:
    good = content("timestamp\n1\n")
    found, table = parse(good, b"timestamp,a\n1,2\n", content("timestamp,a\n1,2\n")[:-5], good)
    assert [facts.row_count for facts in found] == [1, 0, 0, 1]
    assert "not gzip" in str(found[1].error)
    assert "cut off" in str(found[2].error)
    assert table.num_rows == 2


def test_what_is_not_utf_8_costs_no_row() -> None:
    facts, columns = one(b"timestamp,a\n1,\xff\xfe\n3\n")
    assert (facts.row_count, columns) == (2, {"timestamp": [1.0, 3.0]})


def test_what_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.server.metrics.parse.MAX_PLAIN_BYTES", 5000)
    monkeypatch.setattr("streaming.server.metrics.parse.MAX_ROWS", 100)
    assert one("a\n" + "1\n" * 5000)[0].error == "more than 5000 bytes when decompressed"
    assert one("a\n" + "1\n" * 101)[0].error == "more than 100 rows"
    assert one("," * 999 + "\n1\n")[0].error is None
    assert one("," * 1000 + "\n1\n")[0].error == "more than 1000 columns"


@pytest.mark.parametrize("text", ["\ntimestamp,host\n1,foo\n", 'timestamp,"no\nte"\n1,foo\n'])
def test_header_that_is_not_the_first_line_is_no_exception(text: str) -> None:
    facts, columns = one(text)
    assert (facts.error, facts.row_count, columns["timestamp"]) == (None, 1, [1.0])


def test_objects_read_together_are_those_read_alone() -> None:
    texts = [
        "timestamp,a\n1,2\n2,3",
        "timestamp,a\n3,x\n",
        'timestamp,a\n4,"5\n6"\n',
        "timestamp,b\n7,8\n",
        "timestamp,a\n",
    ]
    together, table = parse(*map(content, texts))
    alone = [one(text) for text in texts]
    assert [facts.row_count for facts in together] == [facts.row_count for facts, _ in alone]
    assert [facts.sha256 for facts in together] == [facts.sha256 for facts, _ in alone]
    assert table.column("timestamp").to_pylist() == [1, 2, 3, 4, 7]
    assert table.column("a").to_pylist() == [2.0, 3.0, None, None, None]
    assert table.column("b").to_pylist() == [None, None, None, None, 8.0]


def test_a_part_gives_back_what_was_written_and_is_private(tmp_path: Path) -> None:
    part = part_of(tmp_path, "timestamp,a\n1,2\n", "timestamp\n", "timestamp,a\n3,4\n")
    assert parts.load(tmp_path) == [part]
    assert [facts.row_count for facts in part.objects] == [1, 0, 1]
    assert part.column("a").tolist() == [2.0, 4.0]
    assert np.isnan(part.column("nope")).tolist() == [True, True]
    assert part.path.stat().st_mode & 0o777 == 0o600


def test_a_part_torn_anywhere_or_of_another_version_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = part_of(tmp_path, "timestamp,a\n1,2\n").path.read_bytes()
    torn = parts.numbered(tmp_path, 2)
    for size in range(0, len(whole), 97):
        torn.write_bytes(whole[:size])
        assert [part.path.name for part in parts.load(tmp_path)] == ["00000001.parquet"]
        assert not torn.exists()
    monkeypatch.setattr(parts, "VERSION", b"other")
    assert parts.load(tmp_path) == []


def test_a_flipped_bit_is_damage_not_another_number(tmp_path: Path) -> None:
    part = part_of(tmp_path, "timestamp,a\n" + "".join(f"{row},{row}\n" for row in range(1000)))
    content = bytearray(part.path.read_bytes())
    told = 0
    for at in range(4, len(content) // 2, 211):
        content[at] ^= 0x10
        part.path.write_bytes(content)
        try:
            assert part.column("a").tolist() == list(range(1000))
            assert csv_of(part).count("\n") == 1001
        except parts.DamagedPart:
            told += 1
        content[at] ^= 0x10
    assert told


def test_merged_parts_have_the_newest_of_each_object_in_the_given_order(tmp_path: Path) -> None:
    first = part_of(tmp_path, "timestamp,a\n1,1\n", "timestamp,a\n2,2\n", "timestamp,a\n3,3\n")
    newer = part_of(tmp_path, "timestamp,a\n2,22\n2.5,23\n", number=2, first_key=2)
    keys = [f"{number:04d}.csv.gz" for number in (3, 2)]
    parts.merge(parts.numbered(tmp_path, 3), [first.path, newer.path], keys)
    (merged,) = parts.load(tmp_path)
    assert merged.column("a").tolist() == [3, 22, 23]
    assert [(facts.key[:4], facts.row_count, facts.is_stray) for facts in merged.objects] == [
        ("0003", 1, False),
        ("0002", 2, False),
        ("0001", 1, True),
    ]
    assert StoredRows([merged]).row_count == 3


def test_a_merge_makes_no_part_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LARGEST_ROWS", 5)
    made = [part_of(tmp_path, f"timestamp,a\n{n},1\n{n},2\n", number=n, first_key=n) for n in range(1, 8)]
    parts.merge(parts.numbered(tmp_path, 8), [part.path for part in made], None)
    merged = parts.load(tmp_path)
    assert [part.row_count for part in merged] == [4, 4, 4, 2]
    assert StoredRows(merged).values("a").tolist() == [1, 2] * 7


def test_the_runs_used_longest_ago_leave_the_disk_first(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    for number, name in enumerate("abc"):
        (directory / name).mkdir(parents=True)
        (directory / name / "00000001.parquet").write_bytes(b"x" * 100)
        os.utime(directory / name, (number, number))
    evict(directory, limit_bytes=250)
    assert sorted(path.name for path in directory.iterdir()) == ["b", "c"]
    evict(tmp_path / "missing", limit_bytes=1)


def test_rows_are_put_in_the_order_of_time_and_those_without_a_time_left_out(tmp_path: Path) -> None:
    rows = StoredRows([part_of(tmp_path, "timestamp,a\n5,50\n6,60\n", "b,timestamp\n1,2\n7,\n9,5.5\n")])
    assert rows.timestamps.tolist() == [2.0, 5.0, 5.5, 6.0]
    np.testing.assert_equal(rows.column("a"), [np.nan, 50.0, np.nan, 60.0])
    np.testing.assert_equal(rows.column("b"), [1.0, np.nan, 9.0, np.nan])
    assert (rows.names, rows.row_count) == (["a", "b"], 5)
    assert csv_of(*rows.parts) == "timestamp,a,b\n5,50,\n6,60,\n2,,1\n,,7\n5.5,,9\n"
