"""Where a measurement takes place: a directory on a real disk, a clean environment, a far end of its own on loopback."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import Rows
from tests.support import processes
from tests.support.remote import ROOT, RemoteFarEnd


@dataclass
class World:
    """`scale` chooses between the numbers of a full and of a quick run: `world.pick(full, quick)`."""

    directory: Path
    is_quick: bool
    marker: str
    rows: Rows = field(default_factory=Rows)

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.is_quick else full

    def folder(self, name: str) -> Path:
        """A new, empty directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the user's settings; no network but loopback."""
        home = processes.Home.below(self.directory)
        path = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
        return processes.clean_environment(home, self.marker, **{"PYTHONPATH": path, **more})

    @contextmanager
    def far_end(self) -> Iterator[FarEnd]:
        """The scripted far end, well-behaved, as a process of its own."""
        journal = self.folder("far-end") / "journal"
        with RemoteFarEnd.start("--journal", str(journal)) as remote:
            yield FarEnd(remote, journal)


@dataclass(frozen=True)
class FarEnd:
    """Where it is, and what it was sent."""

    remote: RemoteFarEnd
    journal: Path

    def address(self) -> dict[str, str]:
        """For an order: token and both URLs."""
        far_end = self.remote
        return {"token": far_end.token, "api_url": far_end.api_url, "s3_endpoint_url": far_end.s3_endpoint_url}

    def settings(self) -> dict[str, str]:
        """The same as environment variables."""
        far_end = self.remote
        return {
            "SENTINEL_API_URL": far_end.api_url,
            "SENTINEL_API_TOKEN": far_end.token,
            "SENTINEL_S3_ENDPOINT_URL": far_end.s3_endpoint_url,
        }

    def puts(self) -> list[dict[str, Any]]:
        """Every PUT so far, in order."""
        if not self.journal.exists():
            return []
        entries = map(json.loads, self.journal.read_text(encoding="utf-8").splitlines())
        return [entry for entry in entries if entry["kind"] == "put"]


@contextmanager
def world(*, is_quick: bool, below: Path | None = None) -> Iterator[World]:
    """A world below the project's own directory (a temp directory may be memory, where a sync costs nothing)."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=below or ROOT / ".venv") as name:
        made = World(Path(name), is_quick, processes.new_marker())
        try:
            yield made
        finally:
            processes.kill_marked(made.marker)
            processes.wait_gone(made.marker)
