"""The server's directory: what lies where, for its owner's eyes only.

DIR/                 0700
  token              the first token, for this machine's own shells (`server env` names the file, never its content)
  server.db          runs and tokens (hashed)
  state.json         which processes run, and how to reach them
  port.json          the port of the last start
  seaweedfs/         the embedded S3: keys, configuration, data
  api.log seaweedfs.log
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spool.whole_files import write_private
from streaming.server.errors import UnusableDirectory


class ServerDirectory:
    """Paths below one server's directory; created on `prepare`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.token_file = self.path / "token"
        self.database = self.path / "server.db"
        self.state_file = self.path / "state.json"
        self.port_file = self.path / "port.json"
        self.seaweedfs = self.path / "seaweedfs"
        self.cache = self.path / "cache"
        self.api_log = self.path / "api.log"
        self.seaweedfs_log = self.path / "seaweedfs.log"

    def prepare(self) -> None:
        """Create it with mode 0700; refuse what is not a directory of ours."""
        make_private_directory(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held while processes are started or ended, so that two `up` do not start two targets."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read_state(self) -> dict[str, Any]:
        """What was recorded last; empty when there is nothing or it cannot be read."""
        return _read_object(self.state_file)

    def write_state(self, state: dict[str, Any]) -> None:
        write_private(self.state_file, json.dumps(state, indent=1).encode())

    def forget_state(self) -> None:
        self.state_file.unlink(missing_ok=True)

    def remember_port(self, port: int) -> None:
        """For the next start: clients, and runs that wait to be delivered, know the server by it."""
        if port != self.remembered_port():
            write_private(self.port_file, json.dumps({"port": port}).encode())

    def remembered_port(self) -> int | None:
        port = _read_object(self.port_file).get("port")
        return port if isinstance(port, int) and 0 < port < 65536 else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def make_private_directory(path: Path) -> None:
    """Create with mode 0700, or check that it is a directory of ours and make it private."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnusableDirectory(f"{path} is not a directory.", hint="Choose another with --dir.")
        if found.st_uid != os.getuid():
            raise UnusableDirectory(f"{path} belongs to another user.", hint="Choose another with --dir.")
        path.chmod(0o700)
    except OSError as exc:
        raise UnusableDirectory(f"{path} cannot be used: {exc.strerror}.", hint="Choose another with --dir.") from exc
