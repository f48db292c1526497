"""What the machine offers: the Linux way and the portable one, side by side."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from spool import system
from tests.support.processes import eventually


@pytest.fixture(params=["here", "without"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once as this machine is, once as one that has no procfs."""
    if request.param == "without":
        monkeypatch.setattr(system, "sys", SimpleNamespace(platform="other", version_info=sys.version_info))
    return str(request.param)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made


def test_private_file_is_created_empty_and_never_over_another(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        system.create_private_file(tmp_path / "new")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "dangling")
    for taken in ("new", "link"):
        with pytest.raises(FileExistsError):
            system.create_private_file(tmp_path / taken)


def test_file_is_extended_once_and_copied(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    for _ in range(2):
        system.extend_file(path, 10)
    assert path.read_bytes() == b"abc" + b"\0" * 7
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (tmp_path / "copy").write_bytes(b"")
        system.copy_file(descriptor, tmp_path / "copy")
    finally:
        os.close(descriptor)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_living_process_is_alive_and_a_dead_one_is_not(either: str, child: "subprocess.Popen[bytes]") -> None:
    tracker = system.identify(child.pid)
    assert system.is_here(tracker)
    assert system.is_alive(tracker)
    child.kill()
    child.wait()
    assert not system.is_alive(tracker)


def test_reused_pid_is_not_mistaken_for_the_process(child: "subprocess.Popen[bytes]") -> None:
    tracker = system.identify(child.pid)
    assert not system.is_alive(replace(tracker, started_at="1"))
    assert not system.is_alive(replace(tracker, boot_id="another boot"))
    assert not system.is_here(replace(tracker, host="another host"))
    assert not system.is_here(replace(tracker, pid_namespace="pid:[1]"))


def test_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    stat = Path(f"/proc/{child.pid}/stat")
    eventually(lambda: b") Z" in stat.read_bytes())
    assert system.process_started_at(child.pid) is None
    child.wait()


def test_lock_is_exclusive_between_descriptors_and_ends_with_one(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(2))
    system.lock_byte_range(first)
    assert system.lock_exclusively(first)
    assert not system.lock_exclusively(second)
    os.close(first)
    assert system.lock_exclusively(second)
    os.close(second)


@pytest.mark.parametrize(("number", "is_full"), [("ENOSPC", True), ("EDQUOT", True), ("EFBIG", True), ("EIO", False)])
def test_a_full_disk_a_quota_and_a_size_limit_are_no_room(number: str, is_full: bool) -> None:
    import errno

    assert system.is_no_room(OSError(getattr(errno, number), "")) is is_full


def test_room_is_lacking_near_a_file_size_limit_and_on_a_full_disk_and_nothing_is_left_of_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    assert not system.lacks_room(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        assert system.lacks_room(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(system, "extend_file", lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    assert system.lacks_room(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
