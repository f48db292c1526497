"""The far side of one end-to-end test: the real service and the real S3, each behind a gate of the test's own."""

import os
from datetime import timezone
from types import TracebackType
from typing import Any

from spool.model import iso_utc
from streaming.server.process.embedded import EmbeddedServer
from streaming.server.storage.runs import RegisteredRun
from tests.support.gate import Gate
from tests.support.oracle import Evidence, Told, judge
from tests.support.processes import MARKER_NAME, eventually, spare

FINISH_DEADLINE_S = 60.0


class FarSide:
    """What the test's programs are pointed at, and what arrived there. Its runs are those registered since it was made."""

    def __init__(self, target: EmbeddedServer) -> None:
        self.target = target
        self.token = target.token
        self._earlier = {run.run_id for run in target.runs()}
        self.api = Gate(target.api_url)
        self.s3 = Gate(target.s3_endpoint_url or "")

    def __enter__(self) -> "FarSide":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.api.close()
        self.s3.close()

    def shut(self) -> None:
        """Nothing can be reached."""
        self.api.shut()
        self.s3.shut()

    def open(self) -> None:
        self.api.open()
        self.s3.open()

    def environment(self, *, token: bool = True) -> dict[str, str]:
        """The settings that point a program here. Cloud discovery is off, and the uploader lingers briefly."""
        return {
            "SENTINEL_API_URL": self.api.url,
            "SENTINEL_S3_ENDPOINT_URL": self.s3.url,
            "TRACKER_STREAM_LINGER": "30",
            **({"SENTINEL_API_TOKEN": self.token} if token else {}),
        }

    def runs(self) -> list[RegisteredRun]:
        """The test's runs in the order of their registration."""
        return [run for run in reversed(self.target.runs()) if run.run_id not in self._earlier]

    def wait_finished(self, *, count: int = 1, deadline_s: float = FINISH_DEADLINE_S) -> list[RegisteredRun]:
        """The test's runs, as soon as exactly `count` of them are finished; no other may be registered."""
        eventually(lambda: sum(run.is_finished for run in self.runs()) >= count, deadline_s, self._describe)
        assert len(self.runs()) == count, self._describe()
        return self.runs()

    def wait_registered(self) -> RegisteredRun:
        """The test's first run, as soon as the service knows it."""
        return eventually(self.runs, FINISH_DEADLINE_S, self._describe)[0]

    def wait_objects(self, count: int) -> None:
        """Until at least `count` objects of the test's first run are stored."""
        run = self.wait_registered()
        eventually(lambda: len(self.target.read_objects(run.run_id)) >= count, FINISH_DEADLINE_S, self._describe)

    def judge(
        self, told: Told, *, run: RegisteredRun | None = None, run_status: str, exit_code: int | None
    ) -> RegisteredRun:
        """Wait for the run's finish, read every object back, and ask the oracle for everything. Returns the run."""
        found = run or self.wait_finished()[0]
        judge(self.evidence(found), told, run_status=run_status, exit_code=exit_code)
        return found

    def evidence(self, run: RegisteredRun) -> Evidence:
        """All objects below the run's prefix, and its finish as the service holds it."""
        return Evidence(dict(self.target.read_objects(run.run_id)), self._finish(run), run.prefix)

    def _finish(self, run: RegisteredRun) -> dict[str, Any] | None:
        if run.ended_at is None:
            return None
        finish: dict[str, Any] = {
            "data_source": run.data_source,
            "run_status": run.run_status,
            "finished_at": iso_utc(run.ended_at.astimezone(timezone.utc).timestamp()),
        }
        if run.exit_code is not None:
            finish["exit_code"] = run.exit_code
        if run.data_source == "inline":
            return {**finish, "data_csv": (self.target.inline_csv(run.run_id) or b"").decode()}
        return {**finish, "data_uris": list(run.data_uris)}

    def _describe(self) -> str:
        return f"the service knows {[(run.run_id, run.run_status) for run in self.runs()]}"


def restart(target: EmbeddedServer) -> None:
    """Bring back what a test killed. The new processes belong to the session, not to the test."""
    marker = os.environ.pop(MARKER_NAME, None)
    try:
        target.start_s3()
        target.start_api()
    finally:
        if marker is not None:
            os.environ[MARKER_NAME] = marker
    for started in filter(None, (target.s3_process, target.api_process)):
        spare(started.guard.pid)
        spare(started.command.pid)
