"""Each worker process of a Dask cluster is a run: all of one scheduler's are a job.

    client.register_plugin(TrackerPlugin(project_name="nightly"))

A worker that is killed ends its run as failed; the one that its nanny starts instead is a run of its own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed import WorkerPlugin

from streaming.record.track import track

STOP_TIMEOUT_S = 1.0  # a nanny kills a worker that takes longer to close; what waits is delivered all the same


class TrackerPlugin(WorkerPlugin):  # type: ignore[misc,unused-ignore]  # its base is there only with the extra
    """Takes what `streaming.track` takes. Travels to the workers: its arguments must be picklable, and hold no token."""

    name = "tracker-stream"

    def __init__(self, **options: Any) -> None:
        self._options = options

    async def setup(self, worker: Any) -> None:
        """Begins the run, in a thread of its own: the worker's loop is not kept waiting."""
        scheduler = await worker.scheduler.identity()
        given = {"job_name": "dask-worker", "executor": "dask", "stop_timeout": STOP_TIMEOUT_S, **self._options}
        tags = {"job": scheduler["id"], "worker": str(worker.name), **(given.pop("tags", None) or {})}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker-stream")
        self._run = track(**given, tags=tags)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._run.__enter__)

    async def teardown(self, worker: Any) -> None:
        """Ends the run with the worker's orderly end."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._run.__exit__, None, None, None)
        self._thread.shutdown(wait=False)
