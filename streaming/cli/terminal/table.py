"""A table as lines of text that fit a width: columns shrink, and the least important go. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[str, str]  # text, style ("" for none)
Line = list[Span]
GAP = "  "


@dataclass(frozen=True)
class Column:
    """How one column looks. `shrinks_to`: it may become that narrow. The lowest `rank` goes first; 0 never goes."""

    title: str
    align_right: bool = False
    shrinks_to: int | None = None
    rank: int = 0


def width_of(text: str) -> int:
    """Terminal cells that a text takes."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clean(text: object) -> str:
    """A text for one line of a terminal: control characters, of a hostile spool or service, become `?`."""
    return "".join(
        " "
        if character in "\t\r\n"
        else "?"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
        else character
        for character in str(text)
    )


def cropped(text: str, width: int, ellipsis: str = "…") -> str:
    """At most `width` cells of a text; a mark shows that something is missing."""
    if width_of(text) <= width:
        return text
    kept = ""
    for character in text:
        if width_of(kept + character) > max(0, width - width_of(ellipsis)):
            break
        kept += character
    return kept + ellipsis if width >= width_of(ellipsis) else text[:width]


def lay_out(
    columns: Sequence[Column], rows: Sequence[Sequence[Span]], *, width: int | None, ellipsis: str = "…"
) -> list[Line]:
    """Lines with a line of titles first. `width` None: as wide as needed."""
    shown = list(range(len(columns)))
    while True:
        widths = _widths(columns, rows, shown, width)
        total = sum(widths) + len(GAP) * (len(shown) - 1)
        droppable = [at for at in shown if columns[at].rank]
        if width is None or total <= width or not droppable:
            break
        shown.remove(min(droppable, key=lambda at: columns[at].rank))
    titles = [(column.title, "bold") for column in columns]
    return [_line(columns, row, shown, widths, ellipsis) for row in (titles, *rows)]


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[Span]], shown: list[int], width: int | None
) -> list[int]:
    natural = [max(width_of(columns[at].title), *(width_of(row[at][0]) for row in rows), 0) for at in shown]
    if width is None:
        return natural
    excess = sum(natural) + len(GAP) * (len(shown) - 1) - width
    for place in sorted(range(len(shown)), key=lambda place: -natural[place]):
        least = columns[shown[place]].shrinks_to
        if excess > 0 and least is not None:
            taken = min(excess, max(0, natural[place] - max(least, width_of(columns[shown[place]].title))))
            natural[place] -= taken
            excess -= taken
    return natural


def _line(columns: Sequence[Column], row: Sequence[Span], shown: list[int], widths: list[int], ellipsis: str) -> Line:
    line: Line = []
    for at, width in zip(shown, widths, strict=True):
        text, style = cropped(row[at][0], width, ellipsis), row[at][1]
        padding = " " * (width - width_of(text))
        is_last = at == shown[-1]
        if line:
            line.append((GAP, ""))
        if columns[at].align_right:
            line += [(padding, ""), (text, style)]
        else:
            line += [(text, style), ("" if is_last else padding, "")]
    return [span for span in line if span[0]]


def text_of(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line)
