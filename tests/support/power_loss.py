"""The disk after a power loss: what strace saw written, replayed without what no sync had made durable.

The model is strict. A write or truncate of a file is sure only once a later fsync or fdatasync of that file succeeded;
until then each may be there, not be there, or be there in some of its 512-byte sectors only, whatever came after it.
After a *failed* sync the writes before it stay unsure for good, even if a later sync succeeds (the system may have
dropped them). A created or removed name is sure only once its directory was synced.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tracing import Call

SECTOR_BYTES = 512
TRACED = "openat,close,pwrite64,write,ftruncate,unlink,unlinkat,rename,renameat,renameat2,fsync,fdatasync,fallocate"
OPTIONS = ["-xx", "-s", str(1 << 22), "-e", f"trace={TRACED}"]
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
SURE, UNSURE, DROPPED = "sure", "unsure", "sync failed"


@dataclass
class Write:
    """One write (`data`), or a truncate to `offset` bytes (`data` None)."""

    offset: int
    data: bytes | None
    state: str = UNSURE


@dataclass
class File:
    writes: list[Write] = field(default_factory=list)
    base: bytearray = field(default_factory=bytearray)  # everything before `writes`, all sure

    def sync(self, *, succeeded: bool) -> None:
        for write in self.writes:
            if write.state == UNSURE:
                write.state = SURE if succeeded else DROPPED
        while self.writes and self.writes[0].state == SURE:
            _apply(self.base, self.writes.pop(0), None)

    def content(self, choose: "Choice") -> bytes:
        made = bytearray(self.base)
        for write in self.writes:
            _apply(made, write, None if write.state == SURE else choose.sectors(write))
        return bytes(made)


def _apply(content: bytearray, write: Write, sectors: Sequence[int] | None) -> None:
    """`sectors`: which of the write's 512-byte sectors reached the disk; None: all."""
    if write.data is None:
        if sectors is None or sectors:
            content[:] = content[: write.offset].ljust(write.offset, b"\0")
        return
    for number, (start, piece) in enumerate(_pieces(write)):
        if sectors is None or number in sectors:
            content.extend(bytes(max(0, start + len(piece) - len(content))))
            content[start : start + len(piece)] = piece


def _pieces(write: Write) -> Iterator[tuple[int, bytes]]:
    """The write cut where sectors of the disk begin."""
    assert write.data is not None
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, write.data[start - write.offset : stop - write.offset]
        start = stop


class Choice:
    """Which unsure things reached the disk. `none` and `all` are the two extremes; else chance decides."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.kind = kind
        self._random = random.Random(seed)

    def sectors(self, write: Write) -> Sequence[int]:
        count = 1 if write.data is None else sum(1 for _ in _pieces(write))
        if self.kind != "some":
            return range(count) if self.kind == "all" else ()
        fate = self._random.random()
        if fate < 0.7:
            return range(count) if fate < 0.35 else ()
        return [number for number in range(count) if self._random.random() < 0.5]

    def how_many(self, count: int) -> int:
        """How many of so many name changes, from the first on."""
        if self.kind != "some":
            return count if self.kind == "all" else 0
        return self._random.randint(0, count)


@dataclass
class Disk:
    """One directory. `play` does one system call to it; `after_power_loss` is what a reboot finds."""

    directory: str
    names: dict[str, File] = field(default_factory=dict)  # as sure as the directory's last sync
    changes: list[tuple[str, File | None]] = field(default_factory=list)  # names made or removed since
    opened: dict[int, File | None] = field(default_factory=dict)  # None: the directory itself
    events: list[str] = field(default_factory=list)  # lines written elsewhere: the steps and the acks of the child

    @classmethod
    def of(cls, directory: Path) -> "Disk":
        """The directory as it is now, all of it sure but the acks, which are the test's own."""
        files = {path.name: File(base=bytearray(path.read_bytes())) for path in directory.iterdir()}
        files.pop("acks", None)
        return cls(str(directory), files)

    def play(self, call: Call) -> bool:
        """Whether it changed or synced something."""
        act: Callable[[Call], bool] | None = getattr(self, f"_{call.name}", None)
        if act is None:
            raise AssertionError(f"the model of the disk does not know {call.name}({call.arguments[:80]})")
        return call.result is not None and act(call)

    def after_power_loss(self, choose: Choice) -> dict[str, bytes]:
        """File names and contents as they may be found."""
        names: dict[str, File | None] = dict(self.names)
        for name in {name for name, _ in self.changes}:
            mine = [file for changed, file in self.changes if changed == name]
            if kept := choose.how_many(len(mine)):
                names[name] = mine[kept - 1]
        return {name: file.content(choose) for name, file in sorted(names.items()) if file is not None}

    # -- system calls

    def _openat(self, call: Call) -> bool:
        path = _text(call)
        if call.result is None or call.result < 0:
            return False
        if path == self.directory:
            self.opened[call.result] = None
            return False
        if not path.startswith(self.directory + "/") or path.endswith("/acks"):
            self.opened.pop(call.result, None)
            return False
        return self._open_file(path.removeprefix(self.directory + "/"), call)

    def _open_file(self, name: str, call: Call) -> bool:
        assert call.result is not None
        assert "O_TRUNC" not in call.arguments, "the model of the disk knows no O_TRUNC"
        file = self._visible().get(name)
        is_new = file is None
        if file is None:
            file = File()
            self.changes.append((name, file))
        self.opened[call.result] = file
        return is_new

    def _visible(self) -> dict[str, File | None]:
        return {**self.names, **dict(self.changes)}

    def _close(self, call: Call) -> bool:
        self.opened.pop(_number(call), None)
        return False

    def _pwrite64(self, call: Call) -> bool:
        file = self.opened.get(_number(call))
        if file is None or (call.result or 0) < 0:
            return False
        data = _data(call)
        assert call.result == len(data), "a short write"
        file.writes.append(Write(int(call.arguments.rpartition(", ")[2]), data))
        return True

    def _write(self, call: Call) -> bool:
        assert self.opened.get(_number(call)) is None, "the model of the disk knows pwrite64 only"
        self.events += _data(call).decode(errors="replace").splitlines()
        return False

    def _ftruncate(self, call: Call) -> bool:
        file = self.opened.get(_number(call))
        if file is None or call.result != 0:
            return False
        file.writes.append(Write(int(call.arguments.rpartition(", ")[2]), None))
        return True

    def _unlink(self, call: Call) -> bool:
        name = _text(call).removeprefix(self.directory + "/")
        if call.result != 0 or name not in self._visible():
            return False
        self.changes.append((name, None))
        return True

    def _fdatasync(self, call: Call) -> bool:
        number = _number(call)
        if number not in self.opened:
            return False
        file = self.opened[number]
        if file is not None:
            file.sync(succeeded=call.result == 0)
        elif call.result == 0:
            visible = self._visible()
            self.names = {name: file for name, file in visible.items() if file is not None}
            self.changes = []
        return True

    _fsync = _fdatasync


def _number(call: Call) -> int:
    return int(call.arguments.partition(",")[0])


def _text(call: Call) -> str:
    return _data(call).decode()


def _data(call: Call) -> bytes:
    """The first quoted argument."""
    found = TEXT.search(call.arguments)
    assert found is not None, call
    assert '"...' not in call.arguments, "strace has shortened the data"
    return bytes.fromhex(found[1].replace("\\x", ""))
