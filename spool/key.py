"""The user's key: what a spool says of the place of its rows' CSV file counts only if it was sealed with it.

A spool may be handed over, and everything in it be forged: a CSV path that names a private file, facts of this host. The
key lies in the user's state directory and in no spool. Whoever holds it may read the user's files anyway.
"""

from __future__ import annotations

import hmac
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spool import system
from spool.directory import state_directory
from spool.model import Run, Tracker

NAME = "key"
_KEY_BYTES = 32


def proof(facts: Sequence[object]) -> str:
    """That whoever said this holds the user's key; "" where there is none and none can be made."""
    key = _read() or _make()
    return "" if key is None else _digest(key, facts)


def is_proven(said: str, facts: Sequence[object]) -> bool:
    """Whether `said` is the proof of these facts by the user's key. Makes none."""
    key = _read()
    return key is not None and hmac.compare_digest(said.encode(), _digest(key, facts).encode())


def origin(spool_id: str, tracker: Tracker, csv_path: str | None, api_url: str) -> list[object]:
    """Where a run comes from, as far as others act on it: what is proven with the key."""
    process = (tracker.pid, tracker.started_at, tracker.boot_id, tracker.pid_namespace, tracker.host)
    return ["origin", spool_id, *process, csv_path, api_url]


def is_own(run: Run) -> bool:
    """Whether this user's tracker wrote where the run's CSV file lies, and nobody changed that since."""
    facts = origin(run.spool_id, run.tracker, run.csv_path, run.api_url)
    return run.csv_path is not None and is_proven(run.tracker.proof, facts)


def path() -> Path | None:
    """Where the key lies; None if no state directory is known."""
    directory = state_directory()
    return None if directory is None else directory / NAME


def _digest(key: bytes, facts: Sequence[object]) -> str:
    return hmac.new(key, json.dumps(list(facts)).encode(), "sha256").hexdigest()


def _read() -> bytes | None:
    """The key, if it is there, whole, ours, and nobody else's to read."""
    place = path()
    if place is None:
        return None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        is_private = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077
        if not is_private or status.st_uid != os.geteuid() or status.st_size != _KEY_BYTES:
            return None
        return os.read(descriptor, _KEY_BYTES)
    finally:
        os.close(descriptor)


def _make() -> bytes | None:
    """Write a new key, whole and durable before it has its name; of several that do so at once the first one's stays."""
    place = path()
    if place is None:
        return None
    draft = place.with_name(f".{NAME}-{system.random_name()}")
    try:
        place.parent.mkdir(mode=system.DIRECTORY_MODE, parents=True, exist_ok=True)
        system.create_private_file(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(descriptor, os.urandom(_KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(draft, place)
        system.sync_directory(place.parent)
    except OSError:  # somebody was faster; or no room, no rights: then nothing can be proven
        pass
    finally:
        with suppress(OSError):
            draft.unlink()
    return _read()
