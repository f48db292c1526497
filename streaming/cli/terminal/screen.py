"""Where text goes: what a stream can show (colour, redrawing, Unicode, width), and writing to it.

rich is imported only for a stream that shows colour or can be redrawn; everything else is plain text without a single
control character.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from streaming.cli.terminal.sparkline import ASCII_LEVELS, LEVELS
from streaming.cli.terminal.table import Line, clean, cropped, text_of

_DEFAULT_COLUMNS = 80


class Screen:
    """A stream and what it can show. Texts of others must be `clean` before they get here (`say` does it)."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self._environment = environment
        self._live: Any = None
        self._console: Any = None
        self.is_terminal = _is_terminal(stream)
        is_dumb = environment.get("TERM", "") in ("dumb", "unknown", "")
        self.can_redraw = self.is_terminal and not is_dumb
        self.has_colour = _wants_colour(environment, self.can_redraw)
        self.has_unicode = _shows_unicode(stream, environment)

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None for a file or a pipe, where lines may be as long as they are."""
        if not self.is_terminal:
            return None
        return _terminal_size().columns

    @property
    def ellipsis(self) -> str:
        return "…" if self.has_unicode else "..."

    @property
    def levels(self) -> str:
        return LEVELS if self.has_unicode else ASCII_LEVELS

    def say(self, text: str, style: str = "") -> None:
        """One line of plain words; long ones are for the terminal to wrap."""
        self.write([[(clean(text), style)]])

    def write(self, lines: Sequence[Line]) -> None:
        """Lines, in colour where there is colour. A reader that went away ends the program quietly, as `head` expects."""
        if self.has_colour or self._live is not None:
            console = self._rich_console()
            for line in lines:
                console.print(_rich_text(line), soft_wrap=True)
        else:
            self._stream.write("".join(text_of(line) + "\n" for line in lines))
        self._stream.flush()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Inside, `show` redraws in place. Ends with the last picture left on the terminal."""
        from rich.live import Live

        with Live(
            console=self._rich_console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the picture of `live`; lines are cut at the edge, so that redrawing never scrolls."""
        from rich.console import Group

        width = self.width or _DEFAULT_COLUMNS
        height = _terminal_size().lines - 1
        picture = Group(*(_rich_text(_cut(line, width, self.ellipsis)) for line in lines[:height]))
        with _whole():
            self._live.update(picture, refresh=True)

    def _rich_console(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(
                file=self._stream,
                force_terminal=True,
                no_color=not self.has_colour,
                color_system="standard" if self.has_colour else None,
                highlight=False,
                markup=False,
                emoji=False,
                legacy_windows=False,
                _environ=dict(self._environment),
            )
        return self._console


@contextmanager
def _whole() -> Iterator[None]:
    """Ctrl-C waits until a picture is drawn: half of one would stay on the terminal beside the last."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminal_size() -> os.terminal_size:
    import shutil  # only for a terminal: it brings the compressors with it

    return shutil.get_terminal_size((_DEFAULT_COLUMNS, 24))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _wants_colour(environment: Mapping[str, str], can_redraw: bool) -> bool:
    """NO_COLOR (https://no-color.org) counts more than FORCE_COLOR (https://force-color.org), both more than the terminal."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return can_redraw


def _shows_unicode(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Python writes UTF-8 even where the user's locale says C or POSIX: such a terminal need not show it."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    chosen = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or ""
    return encoding.startswith("utf8") and chosen not in ("C", "POSIX")


def _cut(line: Line, width: int, ellipsis: str) -> Line:
    from streaming.cli.terminal.table import width_of

    kept: Line = []
    for text, style in line:
        room = width - sum(width_of(part) for part, _ in kept)
        if room <= 0:
            break
        kept.append((cropped(text, room, ellipsis), style))
    return kept


def _rich_text(line: Line) -> Any:
    from rich.text import Text

    return Text.assemble(*line, no_wrap=True, overflow="ignore")


def stdout() -> Screen:
    """For results."""
    return Screen(sys.stdout or open(os.devnull, "w"))


def stderr() -> Screen:
    """For everything else."""
    return Screen(sys.stderr or open(os.devnull, "w"))
