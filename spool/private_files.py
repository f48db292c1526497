"""Files for their owner's eyes only that are there whole or not at all, also after a power loss."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spool import system


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is its owner's alone."""
    return os.open(path, flags, system.FILE_MODE)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file: mode 0600 from the first byte on; durable on return; the old content stays if this fails.

    The new name is synced only after the content: a crash in between leaves the old file, never an empty one.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, system.FILE_MODE)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    system.sync_directory(path.parent)
