"""What a JSON text holds is counted without parsing it, and never too low, whatever its strings hold."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.server.api.json_shape import JsonLimits, TooComplex, check_shape
from streaming.server.gunzip import MAX_MEMBERS, NotGzip, TooLarge, gunzip

TEXT = st.text(st.sampled_from('a"\\,:[]{}\n\té'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=40,
)


def is_refused(text: bytes, limits: JsonLimits) -> bool:
    try:
        check_shape(text, limits)
    except TooComplex:
        return True
    return False


def shape_of(value: Any) -> tuple[int, int, int]:
    """Keys, containers, depth."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    shapes = [shape_of(one) for one in inside]
    is_container = isinstance(value, (dict, list))
    keys = len(value) if isinstance(value, dict) else 0
    return (
        keys + sum(shape[0] for shape in shapes),
        is_container + sum(shape[1] for shape in shapes),
        is_container + max((shape[2] for shape in shapes), default=0),
    )


@given(VALUES, st.booleans(), st.booleans())
def test_each_count_is_exact(value: Any, ascii_only: bool, spaced: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if spaced else None).encode()
    keys, containers, depth = shape_of(value)
    assert not is_refused(text, JsonLimits(keys=keys, containers=containers, depth=depth))
    for name, count in (("keys", keys), ("containers", containers), ("depth", depth)):
        assert is_refused(text, JsonLimits(**{name: count - 1})) or count == 0


@given(st.lists(st.integers() | TEXT, min_size=1, max_size=30))
def test_values_are_counted(values: list[Any]) -> None:
    text = json.dumps(values).encode()
    assert not is_refused(text, JsonLimits(values=len(values)))
    assert len(values) == 1 or is_refused(text, JsonLimits(values=len(values) - 1))


@given(st.binary(max_size=200))
def test_anything_at_all_is_judged(text: bytes) -> None:
    is_refused(text, JsonLimits())


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_gzip_members_are_put_together(parts: list[bytes]) -> None:
    data = b"".join(gzip.compress(part) for part in parts)
    plain = b"".join(parts)
    assert gunzip(data, limit=len(plain)) == plain
    if plain:
        with pytest.raises(TooLarge):
            gunzip(data, limit=len(plain) - 1)
    if data:
        with pytest.raises(NotGzip):
            gunzip(data[:-1], limit=len(plain))


def test_large_members_and_too_many() -> None:
    large = [bytes(range(256)) * 400, b"", b"x" * 100_000]
    assert gunzip(b"".join(map(gzip.compress, large)), limit=10**6) == b"".join(large)
    assert gunzip(gzip.compress(b"") * MAX_MEMBERS, limit=0) == b""
    with pytest.raises(TooLarge):
        gunzip(gzip.compress(b"") * (MAX_MEMBERS + 1), limit=0)
