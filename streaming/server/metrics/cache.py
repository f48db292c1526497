"""What was read of one run's objects, kept in one file so that no object is read twice, not even after a restart.

A record: two 8-byte lengths, a JSON head, the numbers. Records are appended and never changed; a later record of the same
key replaces the earlier. Killed in the middle of an append: the torn tail is cut off at the next load, and that object
is read from S3 again. Not synced to disk, for the same reason.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from streaming.server.metrics.frames import Frame

_LENGTHS = struct.Struct("<QQ")
_ALIGNMENT = 8
_NUMBER_BYTES = 8
_HEAD_FIELDS = [field.name for field in fields(Frame) if field.name != "data"]


class FrameFile:
    """The file of one run. One writer at a time: the reader's lock of that run sees to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Frame]:
        """By key; the numbers stay in the file (mapped) until they are used."""
        frames: dict[str, Frame] = {}
        try:
            os.utime(self._path)  # for `evict`
            with open(self._path, "r+b") as file:
                whole_bytes = 0
                for frame, end in _records(file.fileno()):
                    frames[frame.key] = frame
                    whole_bytes = end
                file.truncate(whole_bytes)
        except FileNotFoundError:
            pass
        return frames

    def append(self, frames: Iterable[Frame]) -> None:
        """Write at the end; an OSError (a full disk) leaves at most a torn tail."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(self._path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            for frame in frames:
                head = _head(frame)
                file.write(_LENGTHS.pack(len(head), frame.data.nbytes))
                file.write(head)
                file.write(frame.data.tobytes())


def _records(descriptor: int) -> Iterator[tuple[Frame, int]]:
    """Each whole record with the position after it."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return
    content = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    position, seen_names = 0, dict[tuple[str, ...], tuple[str, ...]]()
    while position + _LENGTHS.size <= size:
        head_length, data_length = _LENGTHS.unpack_from(content, position)
        start = position + _LENGTHS.size + head_length
        if start + data_length > size:
            return
        frame = _frame(content[position + _LENGTHS.size : start])
        names = seen_names.setdefault(frame.names, frame.names)
        shape = (len(names), frame.row_count)
        if math.prod(shape) * _NUMBER_BYTES != data_length:
            return
        data = np.frombuffer(content, dtype=np.float64, count=math.prod(shape), offset=start).reshape(shape)
        position = start + data_length
        yield replace(frame, names=names, data=data), position


def _head(frame: Frame) -> bytes:
    """All but the numbers, padded so that they are aligned in the mapping."""
    encoded = json.dumps({name: getattr(frame, name) for name in _HEAD_FIELDS}).encode()
    return encoded + b" " * (-len(encoded) % _ALIGNMENT)


def _frame(head: bytes) -> Frame:
    values = json.loads(head)
    return Frame(**{**values, "header": tuple(values["header"]), "names": tuple(values["names"])})


def evict(directory: Path, *, limit_bytes: int) -> None:
    """Delete the files used longest ago until the others fit. A file in use goes on to be readable by who has it mapped."""
    files = sorted(directory.glob("*.frames"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > limit_bytes:
            path.unlink(missing_ok=True)
