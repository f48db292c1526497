"""A real SLURM on this machine: a controller, a login node and two compute nodes with host names of their own.

    with Cluster("cgroup") as cluster:
        user = cluster.user(marker)
        job = user.submit("srun tracker-stream run -- sleep 3", "--ntasks=2", **far_end.environment())
        user.wait_for_state(job, "COMPLETED")

Each cluster is by itself: its own munge key and sockets, free ports, node names and cgroups, so that several may run side
by side. Its daemons share a mount namespace in which the interpreter of the tests can be read by the jobs' user (pyenv's
lie below a home directory that is closed), and have one UTS namespace each: without those a program would take the login
node and the compute nodes for one machine. Everything ends with the `with` block, by pid.

Needs root and Debian's SLURM (`scripts/test` installs it, and makes the user); `why_impossible` says what lacks.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import processes
from tests.support.processes import ROOT, Home, Program, clean_environment, eventually, start_program

PROCTRACKS = ("cgroup", "linuxproc", "pgid")
USER = "hpc"
COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv", "setsid", "unshare", "nsenter")
FREEZER = Path("/sys/fs/cgroup/freezer")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL")
START_S, STOP_S = 60.0, 20.0

CONFIGURATION = """
ClusterName={tag}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
MpiDefault=none
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool.%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd.%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=8
MinJobAge=900
SchedulerParameters=batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={place}/log/jobcomp.txt
NodeName={nodes[0]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=40000
NodeName={nodes[1]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=40000
PartitionName=main Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=INFINITE State=UP
"""


@cache
def why_impossible() -> str:
    """Why no cluster can be made here, or nothing."""
    if os.geteuid() != 0:
        return "a real SLURM needs root"
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (scripts/test installs them when run as root)"
    if USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"there is no user {USER} (scripts/test makes it when run as root)"
    tried = subprocess.run(["unshare", "--mount", "--uts", "hostname", "elsewhere"], capture_output=True, text=True)
    return f"no namespaces may be made here ({tried.stderr.strip()})" if tried.returncode else ""


class Cluster:
    """Running from `__enter__` to `__exit__`. `proctrack`: how SLURM finds a job's processes, and so whom it signals."""

    def __init__(self, proctrack: str = "cgroup", **settings: str) -> None:
        """`settings`: more lines of slurm.conf, e.g. Epilog="/path"."""
        self.tag = f"c{secrets.token_hex(3)}x"
        self.nodes = (f"{self.tag}1", f"{self.tag}2")
        self.login_node = f"{self.tag}login"
        self.place = Path(tempfile.mkdtemp(prefix=f"slurm-{proctrack}-", dir="/tmp"))
        self._marker = processes.new_marker()
        self._write_configuration(proctrack, settings)

    def _write_configuration(self, proctrack: str, more: dict[str, str]) -> None:
        self.place.chmod(0o755)
        for name in ("state", "log", *(f"spool.{node}" for node in self.nodes)):
            (self.place / name).mkdir()
        settings = CONFIGURATION.format(
            tag=self.tag, place=self.place, proctrack=proctrack, nodes=self.nodes, ports=_free_ports(3)
        )
        (self.place / "slurm.conf").write_text(settings + "".join(f"{key}={text}\n" for key, text in more.items()))
        version = "cgroup/v1" if FREEZER.is_dir() else "cgroup/v2"
        (self.place / "cgroup.conf").write_text(f"CgroupPlugin={version}\nCgroupAutomount=no\n")
        key = self.place / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)

    # -- start and stop ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        """All of them leave our family of processes, as daemons do: a test that looks for children left sees its own."""
        at = self.place
        self._daemon(
            "munged", f"--socket={at}/munge.socket", f"--key-file={at}/munge.key", f"--pid-file={at}/munged.pid",
            f"--log-file={at}/log/munged.log", f"--seed-file={at}/munge.seed",
        )  # fmt: skip
        steps = [f"hostname {self.login_node}", *_readable_by_all(at), f"echo $$ >{at}/login.pid", "exec sleep inf"]
        self._daemon("setsid", "--fork", "unshare", "--mount", "--uts", "sh", "-ec", "\n".join(steps))
        eventually(lambda: self._login_pid, START_S, "the login node's namespaces are not there")
        self._daemon(*self._inside(), "slurmctld", "-i")
        for node in self.nodes:
            self._daemon(*self._inside(), "unshare", "--uts", "sh", "-c", f"hostname {node}; exec slurmd -N {node}")
        eventually(lambda: self._node_states() == {"idle"}, START_S, self._logs)

    def _daemon(self, *command: str) -> None:
        environment = {"PATH": _path(), "HOME": "/root", **self.settings(), processes.MARKER_NAME: self._marker}
        with open(self.place / "log" / "start.log", "ab") as said:
            subprocess.run(command, env=environment, cwd=self.place, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    @property
    def _login_pid(self) -> str:
        with suppress(OSError):
            return (self.place / "login.pid").read_text().strip()
        return ""

    def _inside(self) -> list[str]:
        """The words that run a command on the login node."""
        return ["nsenter", f"--mount=/proc/{self._login_pid}/ns/mnt", f"--uts=/proc/{self._login_pid}/ns/uts", "--"]

    def _node_states(self) -> set[str]:
        asked = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env={"PATH": _path(), **self.settings()}, capture_output=True, text=True
        )
        return set(asked.stdout.split())

    def _logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self.place.glob("log/*.log"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Daemons, slurmstepds and jobs: all carry the cluster's mark, or sit in its cgroups."""
        processes.kill_marked(self._marker)
        processes.wait_gone(self._marker, STOP_S)
        for group in sorted(FREEZER.glob(f"slurm_{self.tag}*/**/"), key=lambda path: -len(path.parts)):
            for pid in (group / "cgroup.procs").read_text().split():
                processes.kill(int(pid))
        for group in sorted(FREEZER.glob(f"slurm_{self.tag}*/**/"), key=lambda path: -len(path.parts)):
            with suppress(OSError):
                group.rmdir()
        shutil.rmtree(self.place, ignore_errors=True)

    # -- its users -----------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, str]:
        return {"SLURM_CONF": f"{self.place}/slurm.conf"}

    def user(self, marker: str) -> User:
        """The user of a test, with a home directory that all nodes see. `marker`: see the fixture of that name."""
        below = Path(tempfile.mkdtemp(prefix="user-", dir=self.place))
        home = Home.below(below)
        found = pwd.getpwnam(USER)
        for path in (below, home.path, home.tmp_dir):
            os.chown(path, found.pw_uid, found.pw_gid)
        return User(self, home, marker)


@dataclass
class User:
    """Somebody logged in on the login node, in whose name jobs run."""

    cluster: Cluster
    home: Home
    marker: str
    name: str = USER
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def spool_dir(self) -> Path:
        return self.home.spool_dir

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        base = clean_environment(self.home, self.marker, USER=self.name, **self.cluster.settings(), PATH=_path())
        kept = {
            name: text
            for name, text in base.items()
            if not name.startswith(("SLURM_", "SUDO_")) or name == "SLURM_CONF"
        }
        return {**kept, **self.settings, **more}

    def start(self, *command: str | Path, stdin: bool = False, **environment: str) -> Program:
        """A program on the login node."""
        as_user = [
            *self.cluster._inside(), "setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups",
            "env", f"--chdir={self.home.path}",
        ]  # fmt: skip
        return start_program([*as_user, *command], self._environment(environment), stdin=stdin)

    def run(self, *command: str | Path, deadline_s: float = 60.0, **environment: str) -> processes.ProgramResult:
        """A command on the login node, to its end."""
        with self.start(*command, **environment) as program:
            return program.wait(deadline_s)

    def ask(self, *command: str | Path, **environment: str) -> str:
        """What a command says that must succeed."""
        result = self.run(*command, **environment)
        assert result.exit_code == 0, f"{command}: {result}"
        return result.stdout.decode().strip()

    def product(self, *arguments: str | Path, deadline_s: float = 120.0, **environment: str) -> processes.ProgramResult:
        """`tracker-stream ...` on the login node."""
        return self.run("tracker-stream", *arguments, deadline_s=deadline_s, **environment)

    def runs(self) -> list[dict[str, Any]]:
        """What `status --json` says of the user's runs."""
        found: list[dict[str, Any]] = json.loads(self.ask("tracker-stream", "status", "--json"))["runs"]
        return found

    def submit(self, script: str, *options: str, **environment: str) -> int:
        """Submit a batch script; its job id. What it says goes to `output(job)`."""
        file = self.home.path / f"job-{secrets.token_hex(4)}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)
        defaults = ["--parsable", "--output=slurm-%A_%a.out", "--mem=200", "--open-mode=append"]
        return int(self.ask("sbatch", *defaults, *options, file, **environment).split(";")[0])

    def output(self, job: int, task: int | None = None) -> str:
        """What a job has said so far."""
        name = "*" if task is None else str(task)
        return "".join(
            path.read_text(errors="replace") for path in sorted(self.home.path.glob(f"slurm-{job}_{name}.out"))
        )

    def states(self, job: int) -> set[str]:
        """The states of a job, or of all tasks of an array."""
        return set(re.findall(r"JobState=(\S+)", self.ask("scontrol", "show", "job", str(job))))

    def wait_for_state(self, job: int, *states: str, deadline_s: float = 90.0) -> None:
        """Until the job (each task of an array) is in one of these states. At once an error if it ends in another."""
        last: set[str] = set()

        def is_settled() -> bool:
            nonlocal last
            last = self.states(job)
            return last <= {*states, *OVER}

        eventually(is_settled, deadline_s, lambda: f"job {job} is {last}, not {states}: {self.output(job)[-2000:]}")
        assert last <= set(states), f"job {job} ended as {last}, not {states}: {self.output(job)[-2000:]}"

    def wait_over(self, *jobs: int, deadline_s: float = 120.0) -> None:
        for job in jobs:
            self.wait_for_state(job, *OVER, deadline_s=deadline_s)

    def cancel(self, job: int, *options: str) -> None:
        self.ask("scancel", *options, str(job))

    def processes_of(self, job: int, *, node: str = "") -> list[processes.Process]:
        """All that a job has started (on one node) and that runs, detached or not."""
        signs = [f"SLURM_JOB_ID={job}\0".encode(), f"SLURMD_NODENAME={node}\0".encode() if node else b""]
        return [process for process in processes.marked(self.marker) if _has_all(process.pid, signs)]

    def kill(self, job: int, *, node: str = "") -> None:
        """SIGKILL to all of those at once: the node's memory killer, or its power switch."""
        found = self.processes_of(job, node=node)
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them sees another one die
            for process in found:
                processes.kill(process, number)


def _has_all(pid: int, signs: list[bytes]) -> bool:
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return False
    return all(sign in environment for sign in signs)


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin:/usr/bin:/sbin:/bin"])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [found.getsockname()[1] for found in sockets]


def _readable_by_all(place: Path) -> Iterator[str]:
    """Shell commands that make interpreter and checkout readable by everybody, in this mount namespace alone.

    What hides them, a closed home directory, is covered by an empty one that holds only them.
    """
    needed = [path.resolve() for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT)]
    hidden: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(needed):
        if closed := next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None):
            hidden.setdefault(closed, []).append(path)
    for closed, paths in hidden.items():
        kept = [place / f"kept-{secrets.token_hex(4)}" for _ in paths]
        yield from (f"mkdir {at} && mount --bind {path} {at}" for at, path in zip(kept, paths, strict=True))
        yield f"mount -t tmpfs -o mode=755 closed {closed}"
        yield from (f"mkdir -p {path} && mount --move {at} {path}" for at, path in zip(kept, paths, strict=True))
