"""A run that this very process records with a StreamingManager, delivered by a real uploader process."""

from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from spool import Run, Spool, directory
from streaming import StreamingManager
from tests.support import oracle, processes, programs
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home
from tests.support.recorded import HEADER, Recorded, rows
from tests.support.secrecy import secret


class Streamed:
    """As a context manager: whatever the test left undone, no uploader outlives it."""

    def __init__(self, far_end: FarEnd, home: Home, marker: str, **options: Any) -> None:
        self._far_end = far_end
        self._home = home
        self._marker = marker
        self.batches: list[bytes] = []
        self.manager = StreamingManager(
            options.pop("token", far_end.token),
            upload_interval=options.pop("upload_interval", 1),
            metadata={"job_name": "faults"},
            host_info={},
            cloud_info={},
            spool_dir=home.spool_dir,
            spool_interval=0.1,
            stop_timeout=options.pop("stop_timeout", 30),
            api_url=options.pop("api_url", far_end.api_url),
            s3_endpoint_url=options.pop("s3_endpoint_url", far_end.s3_endpoint_url),
        )

    def __enter__(self) -> "Streamed":
        self.manager.start()
        return self

    def __exit__(self, *_: object) -> None:
        processes.kill_marked(self._marker)
        with suppress(Exception):
            self.manager._stop_timeout_s = 0.0
            self.manager.stop()
        processes.kill_marked(self._marker)
        processes.wait_gone(self._marker)

    @property
    def path(self) -> Path:
        return directory.spool_paths(self._home.spool_dir)[-1]

    @property
    def recorded(self) -> Recorded:
        return Recorded(self.path, Told(HEADER, list(self.batches)))

    def append(self, row_count: int = 3) -> None:
        batch = rows(len(self.batches) * 1000, row_count)
        self.manager.append(HEADER + batch)
        self.batches.append(batch)

    def stop(self) -> dict[str, Any]:
        return self.manager.stop()

    def run(self) -> Run:
        with closing(Spool(self.path)) as spool:
            return spool.run()

    def log(self) -> str:
        """What the uploader wrote down."""
        return programs.log_of(self._home.spool_dir)

    def wait_for_cause(self, cause: str, deadline_s: float = 60.0) -> None:
        """Until the spool tells people that this stands in the way."""
        processes.eventually(lambda: self.run().problem_cause == cause, deadline_s, self._said)

    def wait_sent(self, count: int, deadline_s: float = 60.0) -> None:
        processes.eventually(lambda: len(self.manager.uploaded_uris) >= count, deadline_s, self._said)

    def _said(self) -> str:
        run = self.run()
        return f"{run.problem_cause!r} {run.problem!r}\n{self.log()}\n{self._far_end.journal}"

    def judge(self, **expected: Any) -> None:
        """The oracle's verdict on the finished run, and that no secret lies about or is shown by a process."""
        check_secret(self._far_end, self._home, self._marker)
        evidence = self._far_end.evidence()
        oracle.judge(evidence, self.recorded.told, **{"run_status": "finished", "exit_code": 0, **expected})


def check_secret(far_end: FarEnd, home: Home, marker: str) -> None:
    pids = [process.pid for process in processes.marked(marker)]
    secret(far_end.secrets(), directories=[home.path], pids=pids)
