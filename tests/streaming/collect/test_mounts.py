"""The room on mounted file systems: from the kernel's table, never waiting long for one that does not answer."""

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from streaming.collect import mounts
from streaming.collect.mounts import Mounts, Room, mount_points

TABLE = b"""\
/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /media/my\\040disk\\011and\\134more ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
"""
ROOM = SimpleNamespace(f_blocks=10, f_frsize=4096, f_bavail=4)
SPACE = {"total": 40960, "used": 24576, "free": 16384}


@pytest.fixture
def gone() -> Iterator[threading.Event]:
    """A server that does not answer until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_mount_points_are_read_as_the_kernel_writes_them() -> None:
    assert mount_points(TABLE) == [b"/", b"/home", b"/media/my disk\tand\\more"]


def test_mount_with_a_blank_in_its_path_counts(tmp_path: os.PathLike[str]) -> None:
    place = os.fspath(tmp_path) + "/my disk"
    os.mkdir(place)
    line = b"dev " + os.fsencode(place).replace(b" ", rb"\040") + b" ext4 rw 0 0\n"
    assert Mounts().spaces(line)[place]["total"] > 0


def test_mount_that_hangs_is_left_out_and_told_once(
    gone: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "ANSWER_S", 0.2)
    asked = []

    def ask(point: bytes) -> Room:
        asked.append(point)
        if point == b"/home":
            gone.wait()
        return ROOM

    measured = Mounts(ask)
    others = {"/": SPACE, "/media/my disk\tand\\more": SPACE}
    assert [measured.spaces(TABLE) for _ in range(3)] == [others] * 3
    assert asked.count(b"/home") == 1
    assert caplog.text.count("/home does not answer") == 1


def test_mount_that_cannot_be_asked_is_left_out_of_the_row() -> None:
    def ask(_point: bytes) -> Room:
        raise PermissionError(13, "not for you")

    assert Mounts(ask).spaces(TABLE) == {}
