"""What the machine offers: the Linux way and the portable one, side by side."""

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from spool import system
from tests.support.processes import eventually


@pytest.fixture(params=["here", "without"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once as this machine is, once as one that has nothing but plain Python on POSIX."""
    if request.param == "without":
        monkeypatch.setattr(system, "sys", SimpleNamespace(platform="other", version_info=sys.version_info))
        monkeypatch.setattr(
            system, "os", lacking(os, "pidfd_open", "geteuid", "pread", "pwrite", "fchmod", "O_NOFOLLOW")
        )
        monkeypatch.setattr(system, "time", lacking(time, "CLOCK_BOOTTIME"))
    return str(request.param)


def lacking(module: ModuleType, *names: str) -> SimpleNamespace:
    """A module without some of what it has."""
    return SimpleNamespace(**{name: value for name, value in vars(module).items() if name not in names})


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made


def test_private_file_is_created_empty_and_never_over_another(either: str, tmp_path: Path) -> None:
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


def test_file_is_extended_once_and_read_at_any_place(either: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    for _ in range(2):
        system.extend_file(path, 10)
    assert path.read_bytes() == b"abc" + b"\0" * 7
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert system.read_at(descriptor, 2, 1) == b"bc"
        (tmp_path / "copy").write_bytes(b"")
        system.copy_file(descriptor, tmp_path / "copy")
    finally:
        os.close(descriptor)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_current_user_is_known_where_users_have_numbers(either: str) -> None:
    assert system.current_user() == (os.geteuid() if either == "here" else None)


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
    eventually(lambda: b") Z" in stat.read_bytes(), 20)
    assert system.process_started_at(child.pid) is None
    child.wait()


def test_end_of_a_process_can_be_waited_for_where_the_system_has_pidfd(
    either: str, child: "subprocess.Popen[bytes]"
) -> None:
    descriptor = system.open_pid(child.pid)
    if either == "without":
        assert descriptor is None
        return
    assert descriptor is not None
    assert system.wait_readable([descriptor], 0.0) == []
    child.kill()
    assert system.wait_readable([descriptor], 20.0) == [descriptor]
    os.close(descriptor)


def test_end_of_a_process_that_is_gone_cannot_be_waited_for(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    assert system.open_pid(child.pid) is None


def test_wait_tells_what_is_readable_or_closed() -> None:
    read, write = os.pipe()
    assert system.wait_readable([read], 0.01) == []
    os.write(write, b"!")
    assert system.wait_readable([read], 20.0) == [read]
    os.read(read, 1)
    os.close(write)
    assert system.wait_readable([read], 20.0) == [read], "closed at the other end"
    os.close(read)
    assert system.wait_readable([], 0.0) == []


def test_wait_of_any_length_can_be_asked_for() -> None:
    read, write = os.pipe()
    os.close(write)
    assert system.wait_readable([read], 1e300) == [read]
    os.close(read)


def test_pipes_are_asked_again_and_again_where_none_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(system, "_has_input_on_windows", lambda _descriptor: next(answers))
    monkeypatch.setattr(system, "select", SimpleNamespace())
    assert system.wait_readable([7], 20.0) == [7]


def test_lock_is_exclusive_between_descriptors_and_ends_with_one(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(2))
    system.lock_byte_range(first)
    assert system.lock_exclusively(first)
    assert not system.lock_exclusively(second)
    os.close(first)
    assert system.lock_exclusively(second)
    os.close(second)


def test_without_fcntl_the_portable_locks_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def locking(descriptor: int, mode: int, size: int) -> None:
        asked.append((descriptor, mode, size))
        if len(asked) > 1:
            raise OSError

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))  # type: ignore[arg-type]
    monkeypatch.setattr(system, "fcntl", None)
    system.lock_byte_range(5)
    assert system.lock_database(5)
    assert system.lock_exclusively(5)
    assert not system.lock_exclusively(5)
    assert asked == [(5, 2, 1)] * 2


def test_clock_never_jumps(either: str) -> None:
    first = system.seconds_since_boot()
    assert 0 < first <= system.seconds_since_boot()


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


def test_core_dumps_are_forbidden() -> None:
    script = "from spool import machine; machine.forbid_core_dumps(); import resource as r; print(r.getrlimit(r.RLIMIT_CORE))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"
