"""Files that are there whole or not at all, and files for their owner's eyes only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spool import system


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is its owner's alone."""
    return os.open(path, flags, system.FILE_MODE)


@contextmanager
def replacing(path: Path, *, mode: int = 0o666, is_durable: bool = False) -> Iterator[BinaryIO]:
    """Write the file anew: it has its old content, or is not there, until the block has ended well.

    `is_durable`: also after a power loss. The new name is synced only after the content: a crash in between leaves the
    old file, never an empty one.
    """
    draft = path.with_name(f".{path.name}.{system.random_name()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()
    if is_durable:
        system.sync_directory(path.parent)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file, mode 0600 from the first byte on; durable on return; the old content stays if this fails."""
    with replacing(path, mode=system.FILE_MODE, is_durable=True) as file:
        file.write(content)
