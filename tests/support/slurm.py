"""A cluster of one node, as far as a job script can tell: the variables, `srun`, and the signals at a preemption.

    with Job.submit(script_text, home, environment) as job:
        job.preempt(grace_s=30)      # SIGCONT and SIGTERM to every process of the job, SIGKILL to what is left after

Source of the order of signals: the manual of `slurm.conf`, PreemptMode, GraceTime and KillWait.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Home, Program, eventually, kill, marked, start_program

SRUN = """#!/bin/bash
# Stands for srun with one task on this node: its options are dropped, the task's variables are set.
while [[ $1 == -* ]]; do shift; done
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_STEP_ID=0
exec "$@"
"""
NODE = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_CPUS_ON_NODE": "2",
    "SLURM_MEM_PER_NODE": "4000",
    "SLURMD_NODENAME": "node07",
    "SLURM_RESTART_COUNT": "1",
}


@dataclass
class Job:
    """A running batch job: its batch script and whatever that started, detached or not."""

    program: Program
    marker: str

    @classmethod
    def submit(cls, script: str, home: Home, environment: Mapping[str, str], marker: str) -> "Job":
        """What sbatch does: run the script with bash in the job's environment, in a session of its own."""
        programs = home.path / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "srun").write_text(SRUN)
        (programs / "srun").chmod(0o755)
        file = home.path / "job.sh"
        file.write_text(script)
        path = f"{programs}{os.pathsep}{environment['PATH']}"
        return cls(start_program(["bash", file], {**environment, **NODE, "PATH": path}, cwd=home.path), marker)

    def preempt(self, grace_s: float = 30.0) -> bool:
        """SIGCONT and SIGTERM to every process of the job; SIGKILL to those left after the grace. Whether none was left."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            for process in marked(self.marker):
                kill(process, number)
        try:
            eventually(lambda: not marked(self.marker), grace_s)
        except AssertionError:
            for process in marked(self.marker):
                kill(process)
            return False
        return True

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for process in marked(self.marker):
            kill(process)
        self.program.__exit__()


def token_file(home: Home, token: str) -> Path:
    """Where the README's recipe keeps the token."""
    path = home.path / ".config" / "sentinel-token"
    path.parent.mkdir(parents=True)
    path.write_text(token)
    path.chmod(0o600)
    return path
