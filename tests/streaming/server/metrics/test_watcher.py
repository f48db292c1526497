"""The look over all runs in the background."""

from __future__ import annotations

from typing import Any, cast

from streaming.server.metrics.reader import RunReader
from streaming.server.metrics.watcher import Watcher
from streaming.server.storage.runs import RegisteredRun
from tests.streaming.server.conftest import Service


class Stumbling:
    """A reader to which one run's rows do what nobody foresaw."""

    def __init__(self, reader: RunReader, bad_run_id: str) -> None:
        self._reader = reader
        self._bad_run_id = bad_run_id
        self.seen: list[str] = []

    def tidy(self) -> None:
        self._reader.tidy()

    def read(self, run: RegisteredRun, **how: Any) -> Any:
        self.seen.append(run.run_id)
        if run.run_id == self._bad_run_id:
            raise TypeError("rows of another kind")
        return self._reader.read(run, **how)


def test_run_that_cannot_be_read_keeps_no_other_from_being_looked_at(service: Service) -> None:
    ids = [service.register(job_name=name)["run_id"] for name in ("a", "b", "c")]
    for bad_run_id in ids:
        reader = Stumbling(service.app.state.reader, bad_run_id)
        Watcher(service.app.state.runs, cast(RunReader, reader)).look()
        assert sorted(reader.seen) == sorted(ids)
