"""Where a command's result goes: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from spool.whole_files import replacing

STDOUT = Path("-")


@contextmanager
def opened(output: Path | None, *, grows: bool = False) -> Iterator[BinaryIO]:
    """Stdout (also for `-`), or the file. A device or a pipe is written to, never replaced; so is a file that `grows`."""
    if output is None or output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    is_written_to = grows or (output.exists() and not output.is_file())
    try:
        with open(output, "wb") if is_written_to else replacing(output.resolve()) as file:
            yield file
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror})") from error
