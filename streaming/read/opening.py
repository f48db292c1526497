"""Which source a text or path names."""

from __future__ import annotations

import os
from pathlib import Path

from spool import directory
from streaming.errors import BadArgument
from streaming.read.lake_source import RUNS_FILE, LakeSource
from streaming.read.remote import ServerSource
from streaming.read.sources import Source, SpoolSource


def open_source(source: str | os.PathLike[str] | None, *, token: str | None = None) -> Source:
    """None: the user's own spool directory. Raises BadArgument for what is no source."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return ServerSource(source, token)
    if isinstance(source, str) and source.startswith("s3://"):
        from streaming.read.bucket import BucketSource

        return BucketSource(source)
    path = directory.default_directory() if source is None else Path(source).expanduser().absolute()
    if source is not None and not path.is_dir():
        raise BadArgument(f"{path} is no directory", hint="give a spool directory, a server's address, or a lake")
    return LakeSource(path) if (path / RUNS_FILE).is_file() else SpoolSource(path)
