"""How large a JSON text is in its structure, found without parsing it: a small text can be a very expensive one.

Six megabytes of unknown keys cost the parser and the schema a minute and gigabytes; the same bytes in one string cost
nothing. Everything here is linear in the text, at the speed of bytes methods, with lists no longer than the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

_ESCAPED = (b"\\\\", b'\\"')  # in this order: of `\\"` the quote ends the string, of `\\\"` it does not
_BRACKETS = b"{}[]"
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


@dataclass(frozen=True)
class JsonLimits:
    """More than any body of the API has: 100,000 URIs in a list, 200 tags, each with a few keys."""

    values: int = 250_000
    keys: int = 5_000
    containers: int = 2_000
    depth: int = 16


class TooComplex(ValueError):
    """The text holds more than the limits; the message says of what."""


def check_shape(text: bytes, limits: JsonLimits) -> None:
    """Raises TooComplex. What is no JSON passes: the parser stops at the first wrong byte, and up to there it holds."""
    for pair in _ESCAPED:
        text = text.replace(pair, b"")
    if text.count(b'"') > 2 * (limits.values + limits.keys):
        raise TooComplex(f"The body holds more than {limits.values} values.")
    structure = b"".join(text.split(b'"')[::2])
    containers = structure.count(b"{") + structure.count(b"[")
    for name, count, limit in (
        ("values", structure.count(b",") + containers, limits.values),
        ("keys", structure.count(b":"), limits.keys),
        ("objects and lists", containers, limits.containers),
    ):
        if count > limit:
            raise TooComplex(f"The body holds more than {limit} {name}.")
    if _depth(structure) > limits.depth:
        raise TooComplex(f"The body is nested deeper than {limits.depth}.")


def _depth(structure: bytes) -> int:
    deepest = depth = 0
    for bracket in structure.translate(None, _ALL_BUT_BRACKETS):
        depth += 1 if bracket in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest
