"""The table: its figures, and how people, machines and the README see it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

COLUMNS = ("#", "what", "ours", "peer or limit, same run", "ratio", "to reach", "met")
BEGIN, END = "<!-- performance -->", "<!-- /performance -->"
HEADING = """## What it costs

`scripts/bench` measures it on your machine (`--quick`: under two minutes). Every figure is a median of interleaved runs,
every ratio is of two things measured in the same run."""
_WIDTHS = (4, 44, 22, 40, 9, 20, 4)


@dataclass(frozen=True)
class Figure:
    """One line. `is_met` None: shown for comparison only. `values`: the bare numbers, for machines."""

    row: str
    what: str
    ours: str
    other: str = ""
    ratio: str = ""
    to_reach: str = ""
    is_met: bool | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def numbered(self, row: str) -> Figure:
        """The same line, as the first of its row."""
        return replace(self, row=row)

    def cells(self) -> tuple[str, ...]:
        met = {None: "", True: "yes", False: "NO"}[self.is_met]
        return (self.row, self.what, self.ours, self.other, self.ratio, self.to_reach, met)


@dataclass(frozen=True)
class Measured:
    """The figures of one row of the issue, and what has to be said about them."""

    figures: Sequence[Figure]
    notes: Sequence[str] = ()


def as_text(head: str, measured: Iterable[Measured]) -> str:
    """For a terminal."""
    lines = [head, "", _text_line(COLUMNS), _text_line(["-" * width for width in _WIDTHS])]
    notes: list[str] = []
    for part in measured:
        lines += [_text_line(figure.cells()) for figure in part.figures]
        notes += part.notes
    return "\n".join([*lines, "", *(textwrap.fill(note, 120, subsequent_indent="  ") for note in notes)])


def lines_of(measured: Measured) -> str:
    """The lines of one row, while the others are still to come."""
    return "\n".join(_text_line(figure.cells()) for figure in measured.figures)


def _text_line(cells: Sequence[str]) -> str:
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, _WIDTHS, strict=True)]
    height = max(map(len, wrapped))
    rows = ([part[at] if at < len(part) else "" for part in wrapped] for at in range(height))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, _WIDTHS, strict=True)).rstrip() for row in rows
    )


def as_markdown(head: str, measured: Iterable[Measured]) -> str:
    """For the README, between markers."""
    lines = [BEGIN, HEADING, "", head, "", _markdown_line(COLUMNS), _markdown_line(["---"] * len(COLUMNS))]
    notes: list[str] = []
    for part in measured:
        lines += [_markdown_line(figure.cells()) for figure in part.figures]
        notes += [f"- {note}" for note in part.notes]
    return "\n".join([*lines, "", *notes, END])


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join("**no**" if cell == "NO" else cell.replace("|", "\\|") for cell in cells) + " |"


def as_json(head: dict[str, Any], measured: Iterable[Measured]) -> dict[str, Any]:
    """For machines: the bare numbers beside the texts."""
    parts = list(measured)
    return {
        "schema": 1,
        **head,
        "figures": [asdict(figure) for part in parts for figure in part.figures],
        "notes": [note for part in parts for note in part.notes],
    }


def from_json(told: dict[str, Any]) -> tuple[dict[str, Any], list[Measured]]:
    """What `as_json` made: the head, and the figures with their notes."""
    figures = [Figure(**figure) for figure in told["figures"]]
    head = {name: content for name, content in told.items() if name not in ("schema", "figures", "notes")}
    return head, [Measured(figures, told["notes"])]
