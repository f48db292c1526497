"""What the server reads of strangers: request bodies, gzip, CSV objects, names of objects."""

import gzip
import json
from typing import Any

import pyarrow as pa
from fastapi import HTTPException
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streaming.server.api.bodies import BodyLimits, _decode_and_parse
from streaming.server.api.json_shape import JsonLimits
from streaming.server.api.schemas import FinishBody, RunMetadata
from streaming.server.gunzip import NotGzip, TooLarge, gunzip
from streaming.server.metrics.parse import LINE, ObjectFacts, parse_objects
from streaming.tables.csv_text import column_names, parse_columns, split_header
from streaming.tables.object_names import find_gaps, order_of, parse_name
from tests.fuzz.csv_files import texts
from tests.fuzz.target import Target

LIMITS = BodyLimits(4096, 65_536, JsonLimits(values=500, keys=100, containers=50, depth=8))
PLAIN_MAX_BYTES = 10_000
FINISH: TypeAdapter[Any] = TypeAdapter(FinishBody)
KEYS = [*RunMetadata.model_fields, "data_source", "data_csv", "data_uris", "run_status", "exit_code", "finished_at"]

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(
            ["s3", "inline", "finished", "failed", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=6)), inner, max_size=6),
    ),
    max_leaves=12,
)
bodies = st.one_of(
    values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"1", b"a", b"\xff", b"NaN"])).map(
        b"".join
    ),
)
cells = st.sampled_from(
    [
        "1",
        "1.5",
        "",
        "nan",
        "inf",
        "1e999",
        "-",
        "+3",
        "007",
        "x",
        '"',
        '"a,b"',
        '"a\nb"',
        "2026-11-24",
        "\x00",
        "ä",
        " 1 ",
    ]
)
lines = st.lists(cells, min_size=1, max_size=4).map(",".join)
tables = st.tuples(
    st.lists(st.sampled_from(["timestamp", "system_cpu_usage", "a", "b", "a", "", '"q"', '"n\nl"', "ä"]), max_size=4),
    st.lists(lines, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
).map(lambda found: found[2].join([",".join(found[0]), *found[1]]).encode())
objects = st.lists(
    st.one_of(tables.map(gzip.compress), texts.map(gzip.compress), st.binary(max_size=80), tables),
    min_size=1,
    max_size=4,
)
squeezed = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(st.binary(max_size=100), st.integers(0, 20_000).map(bytes)).map(gzip.compress), max_size=4).map(
        b"".join
    ),
)


def request_bodies(body: bytes) -> None:
    """A body is refused in words, or is a value that the schemas take or refuse; what they take can be kept as JSON."""
    for encoding, wire in (("identity", body), ("gzip", gzip.compress(body)), ("gzip", body), ("br", body)):
        try:
            _, value = _decode_and_parse(wire, encoding, LIMITS)
        except HTTPException:  # which is an answer
            continue
        if isinstance(value, Exception):
            assert isinstance(value, (ValueError, RecursionError))
            continue
        for taken in (RunMetadata.model_validate, FINISH.validate_python):
            try:
                known = taken(value)
            except ValidationError:
                continue
            json.dumps(known.model_dump(mode="json"), allow_nan=False).encode()


def gzip_members(data: bytes) -> None:
    try:
        assert len(gunzip(data, limit=PLAIN_MAX_BYTES)) <= PLAIN_MAX_BYTES
    except (NotGzip, TooLarge):
        return


def csv_objects(contents: list[bytes]) -> None:
    """Objects read together are those read alone, each an error or as many rows as it tells of."""
    given = [(ObjectFacts(f"{number:04d}.csv.gz", "e", 1, 0.0), content) for number, content in enumerate(contents, 1)]
    facts, table = parse_objects(given)
    assert sum(each.row_count for each in facts) == table.num_rows == len(table.column(LINE))
    alone = [parse_objects([each]) for each in given]
    assert [each.row_count for each in facts] == [found[0].row_count for (found, _) in alone]
    assert [each.error for each in facts] == [found[0].error for (found, _) in alone]
    for name in set(table.column_names) - {LINE}:
        assert pa.types.is_floating(table.column(name).type)


def csv_text(text: bytes) -> None:
    header, body = split_header(text)
    names = column_names(header)
    assert len(set(names)) == len(names)
    assert parse_columns(header, body).column_names == list(names)


def object_names(keys: list[str]) -> None:
    ordered = sorted(keys, key=order_of)
    assert sorted(ordered, key=order_of) == ordered
    missing = {seq for gap in find_gaps(keys) if gap.last - gap.first < 10**4 for seq in range(gap.first, gap.last + 1)}
    assert not missing & {parse_name(key).seq for key in keys}


names = st.lists(
    st.one_of(st.text(max_size=20), st.from_regex(r"(.*/)?[0-9]{1,9}(-[0-9a-f]{12})?\.csv\.gz\n?")), max_size=5
)
TARGETS = [
    Target(bodies, request_bodies),
    Target(squeezed, gzip_members),
    Target(objects, csv_objects),
    Target(st.one_of(texts, tables), csv_text),
    Target(names, object_names),
]
