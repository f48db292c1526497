"""What a framework that runs in this very process tells about its job: Metaflow, Jupyter. None of them is imported here."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from streaming.collect.scheduler import Placement, placement


def placement_here() -> Placement:
    """The place of this process: its environment's word, and what is known inside of it only."""
    where = placement(os.environ)
    for inside in (_metaflow_step(), _notebook_kernel()):
        where = Placement({**where.metadata, **inside.metadata}, {**where.tags, **inside.tags})
    return where


def _metaflow_step() -> Placement:
    """`metaflow.current`, in a step (Metaflow, "Current: Accessing information about the current run")."""
    current: Any = getattr(sys.modules.get("metaflow"), "current", None)
    if not getattr(current, "is_running_flow", False):
        return Placement()
    return Placement(
        {
            "orchestrator": "metaflow",
            "external_run_id": str(current.pathspec),  # flow/run/step/task
            "job_name": str(current.flow_name),
            "stage_name": str(current.step_name),
            "task_name": str(current.task_id),
        },
        {"job": str(current.run_id), "attempt": str(current.retry_count)},
    )


def _notebook_kernel() -> Placement:
    """The kernel, by the name of its connection file: each start of a notebook has one of its own."""
    application: Any = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    with suppress(Exception):  # a foreign object: whatever it lacks, there is no kernel to tell of
        if application is not None and application.initialized():
            kernel = Path(application.instance().connection_file).stem
            return Placement({"orchestrator": "jupyter", "external_run_id": kernel}, {"job": kernel})
    return Placement()
