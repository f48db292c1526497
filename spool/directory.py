"""Where spools live: directories, file names, private modes."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spool import system
from spool.errors import DirectoryUnusable, LocksDoNotWork

SUFFIX = ".spool"
JOURNAL_SUFFIX = ".spool-journal"
LOCK_SUFFIX = ".lock"
LOG_SUFFIX = ".log"
MARK_NAME = ".origin"
ENVIRONMENT_VARIABLE = "TRACKER_STREAM_DIR"
REMEDY = f"give another directory with spool_dir=... or {ENVIRONMENT_VARIABLE}"


def chosen(given: str | os.PathLike[str] | None = None) -> Path:
    """`given`, else `TRACKER_STREAM_DIR`, else `spools` in the user's state directory (never a cache or temp directory)."""
    if named := given or os.environ.get(ENVIRONMENT_VARIABLE):
        path = Path(os.path.expanduser(named))
        return path if path.parts[:1] == ("~",) else path.absolute()
    return (state_directory() or Path("~", "tracker-stream")) / "spools"  # `prepare` refuses `~`


def state_directory() -> Path | None:
    """What we keep of a user beside the spools; None if no home directory is known."""
    with suppress(RuntimeError):
        found = user_directory("state")
        return None if found.parts[:1] == ("~",) else found
    return None


def user_directory(kind: str) -> Path:
    """The user's directory for our "state" or "config". May begin with `~`, or raise RuntimeError, if no home is known."""
    if sys.platform.startswith("linux"):  # as platformdirs finds it, without the megabyte that its import takes
        variable, usual = {"state": ("XDG_STATE_HOME", "~/.local/state"), "config": ("XDG_CONFIG_HOME", "~/.config")}[
            kind
        ]
        given = os.environ.get(variable, "")
        return Path(given if given.strip() else os.path.expanduser(usual), "tracker-stream")
    import platformdirs

    return (
        platformdirs.user_state_path("tracker-stream")
        if kind == "state"
        else platformdirs.user_config_path("tracker-stream")
    )


def prepare(directory: Path) -> None:
    """Make `directory` exist, private (0700), writable, with working locks. Raises DirectoryUnusable, LocksDoNotWork."""
    if directory.parts[:1] == ("~",):  # of a user whom the system does not know, without HOME
        raise DirectoryUnusable("no home directory is known to keep spools in", path=directory, hint=REMEDY)
    try:
        directory.mkdir(mode=system.DIRECTORY_MODE, parents=True, exist_ok=True)
        _require_private(directory)
        _probe_locks(directory)
        make_mark(directory)
    except FileExistsError as error:
        raise DirectoryUnusable(f"the spool directory {directory} is a file", path=directory, hint=REMEDY) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DirectoryUnusable(
            f"the spool directory {directory} cannot be used ({reason})", path=directory, hint=REMEDY
        ) from error


def _require_private(directory: Path) -> None:
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise DirectoryUnusable(f"the spool directory {directory} is a symbolic link", path=directory, hint=REMEDY)
    user = os.geteuid()
    if status.st_uid != user:
        raise DirectoryUnusable(
            f"the spool directory {directory} belongs to user {status.st_uid}, not to you ({user})",
            path=directory,
            hint=REMEDY,
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        _tighten(directory)


def _tighten(directory: Path) -> None:
    """Close a directory to others, but only if it is ours alone: a shared one was not meant for spools."""
    ours = (LOCK_SUFFIX, LOG_SUFFIX, MARK_NAME)
    foreign = [name for name in os.listdir(directory) if SUFFIX not in name and not name.endswith(ours)]
    if foreign:
        raise DirectoryUnusable(
            f"the spool directory {directory} is open to other users and holds other files ({foreign[0]})",
            path=directory,
            hint=f"use a directory of its own, or close it with: chmod 700 {directory}",
        )
    directory.chmod(system.DIRECTORY_MODE)


def _probe_locks(directory: Path) -> None:
    """Try both kinds of lock on a scratch file: SQLite would report a missing one as "locked", for ever."""
    scratch = directory / f".probe-{system.random_name()}"
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    descriptor = os.open(scratch, flags, system.FILE_MODE)
    try:
        system.lock_byte_range(descriptor)
        system.lock_exclusively(descriptor)
    except OSError as error:
        raise LocksDoNotWork(
            f"the file system of {directory} has no working file locks ({error.strerror})",
            path=directory,
            hint=f"{REMEDY}, on a local disk",
        ) from error
    finally:
        os.close(descriptor)
        scratch.unlink()


def make_mark(directory: Path) -> None:
    """The file by which `file_mark` knows this directory. Created in one step, and never touched again."""
    with suppress(OSError):  # it is there already; or there is no room: then a run looks like a copy
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(directory / MARK_NAME, flags, system.FILE_MODE))


def file_mark(spool_path: Path) -> str:
    """What the file at this path has, and no copy of it: to be compared with what was noted when it was created.

    It is the file's name with the number and the change time of the directory's mark. All hosts that share a directory
    (NFS, Lustre, a bind mount) see the same of them. A copy of the directory (cp -a, rsync, tar, a backup) has a mark of
    its own, for nobody can set the time of a file's last change; a copy within the directory has another name. The spool's
    own number and times would not do: it is written all the time, and replaced when it is recovered.

    Errs towards "a copy" where somebody changed the mark's owner, mode or links, or restored the directory. "" if there
    is none.
    """
    try:
        status = (spool_path.parent / MARK_NAME).lstat()
    except OSError:
        return ""
    return f"{status.st_ino}-{status.st_ctime_ns}/{spool_path.name}"


def is_original(spool_path: Path, mark: str) -> bool:
    """Whether the file is the one that got this mark when it was created, and no copy of it."""
    return file_mark(spool_path) == mark != ""


def new_spool_path(directory: Path, started_at: float) -> Path:
    """A path for a new run: sorts by start time, unique by chance (64 bits)."""
    day = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started_at))
    return directory / f"{day}-{system.random_name()}{SUFFIX}"


def short_name(spool_path: Path) -> str:
    """The beginning of the random part of a run's name: enough to name the run in a command."""
    return spool_path.stem.rpartition("-")[2][:8]


def spool_paths(directory: Path) -> list[Path]:
    """All spools of a directory, oldest first. An absent directory has none."""
    try:
        return sorted(directory.glob(f"*{SUFFIX}"))
    except OSError:
        return []


def remove(spool_path: Path, *, step: Callable[[str], None] = lambda _name: None) -> None:
    """Delete a run's files; the spool itself last, so that a killed removal is repeated. Durable."""
    for suffix in (LOG_SUFFIX, JOURNAL_SUFFIX, SUFFIX, LOCK_SUFFIX):
        spool_path.with_suffix(suffix).unlink(missing_ok=True)
        step(f"remove:unlinked {suffix}")
    system.sync_directory(spool_path.parent)
    step("removed")
