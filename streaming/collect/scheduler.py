"""Who belongs together: what schedulers and launchers tell a process about the job that it is a part of.

A job is what was submitted once: its ranks, steps, array tasks and attempts are runs that carry the same tag `job`.
Everything is read from variables that the schedulers document (named at each), so that no cluster is needed to test it.

| tag | what it is |
|---|---|
| job | the id of the whole: SLURM's job (of an array or a heterogeneous job: the first's), a pipeline's run |
| step, array_task, het_group | SLURM's; the step of a batch script itself is `batch` |
| mpi_job | the name that the MPI launcher gave to this start of the program |
| attempt | how often it was started again: 0 the first time |
| rank, local_rank, world_size | of the launcher nearest to the process |
| host | the node, as the scheduler calls it |
| limit_cpus, limit_memory_mib | what it was given (`limits`) |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming.collect.limits import limits

Environment = Mapping[str, str]
_OURSELVES = "tracker-stream"
_ANCESTORS_MAX = 8
_HET_NODES = re.compile(r"SLURM_JOB_NODELIST_HET_GROUP_(\d+)")
_NODES = re.compile(r"([^,\[\]]+)(?:\[([\d,-]+)\])?")

# Who knows best comes first: the launcher nearest to the process. RANK and the like are common words, so torchrun's
# count only beside a variable that nobody else sets; a batch script of SLURM is no rank, though it has a SLURM_PROCID.
_RANKS: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("TORCHELASTIC_RUN_ID", ("RANK", "LOCAL_RANK", "WORLD_SIZE")),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")),
    ("PMIX_RANK", ("PMIX_RANK", "SLURM_LOCALID", "SLURM_NTASKS")),
    ("PMI_RANK", ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE")),
    ("SLURM_STEP_ID", ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")),
)


@dataclass(frozen=True)
class Placement:
    """Where in a job a process is. `metadata` and `tags` fill in what the user did not give."""

    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def local_rank(self) -> int | None:
        return int(self.tags["local_rank"]) if "local_rank" in self.tags else None

    @property
    def is_first_rank(self) -> bool:
        """Whether this process speaks for all ranks of its start: they share a terminal, and people read one report."""
        return self.tags.get("rank", "0") == "0"

    def of_node(self, environment: Environment) -> Placement:
        """Of all that the job runs on this node: no rank, and the CPUs of all of its tasks there."""
        tags = {name: text for name, text in self.tags.items() if name not in ("rank", "local_rank", "world_size")}
        cpus = environment.get("SLURM_CPUS_ON_NODE", "")
        return Placement(self.metadata, {**tags, "scope": "node", **({"limit_cpus": cpus} if cpus.isdigit() else {})})

    def filling(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A run's metadata: what was given, and what is told of the rest."""
        named = {name: value for name, value in given.items() if value is not None}
        tags = named.get("tags") or {}
        if isinstance(tags, Mapping):  # another shape is the user's own, whoever judges it
            tags = {**self.tags, **tags}
        return {**self.metadata, **named, **({"tags": tags} if tags else {})}


def placement(environment: Environment, root: Path = Path("/")) -> Placement:
    """What the environment and the control groups tell; empty outside of any scheduler and without limits.

    Where several tell (an Airflow task that runs `sbatch`), the first of `_LAUNCHERS` names the job.
    """
    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    for launcher in _LAUNCHERS:
        found = launcher(environment, root)
        metadata = {**found.metadata, **metadata}
        tags = {**found.tags, **tags}
    tags.update(_ranks(environment))
    tags.update(limits(environment, root))
    return Placement(metadata, tags)


def slurm_job(environment: Environment) -> str:
    """The SLURM job of this environment as cluster/number/restarts, "" outside of one."""
    job_id, cluster = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_CLUSTER_NAME", "")
    return f"{cluster}/{job_id}/{environment.get('SLURM_RESTART_COUNT') or 0}" if job_id.isdigit() and cluster else ""


def _ranks(environment: Environment) -> dict[str, str]:
    """rank, local_rank and world_size, all from the same source."""
    for sign, variables in _RANKS:
        if sign in environment:
            named = zip(("rank", "local_rank", "world_size"), variables, strict=True)
            return {name: environment[key] for name, key in named if environment.get(key, "").isdigit()}
    return {}


def _of(*, job: str = "", metadata: Mapping[str, str | None], tags: Mapping[str, str | None]) -> Placement:
    """A placement of what is known; what is empty is left out. `job` is the whole's id, and this run's unless it has one."""
    named = {"external_run_id": job, **metadata}
    return Placement(
        {name: text for name, text in named.items() if text},
        {name: text for name, text in {"job": job, **tags}.items() if text},
    )


def _counted_from_1(text: str) -> str:
    """An attempt as we count: 0 is the first."""
    return str(int(text) - 1) if text.isdigit() and int(text) else ""


# -- the launchers, each by the variables that it documents -----------------------------------------------------------


def _slurm(environment: Environment, _root: Path) -> Placement:
    """Manual pages of sbatch and srun, OUTPUT ENVIRONMENT VARIABLES; SLURMD_NODENAME: of slurmd, ENVIRONMENT."""
    get = environment.get
    job_id = get("SLURM_JOB_ID", "")
    if not job_id:
        return Placement()
    array, index = get("SLURM_ARRAY_JOB_ID", ""), get("SLURM_ARRAY_TASK_ID", "")
    component = _het_component(environment)
    name = get("SLURM_JOB_NAME", "")
    return _of(
        job=array or job_id,
        metadata={
            "orchestrator": "slurm",
            # As squeue writes it: 39, 39_7 of an array, 39+1 of a heterogeneous job.
            "external_run_id": f"{array}_{index}"
            if array and index
            else f"{job_id}+{component}"
            if component
            else job_id,
            "job_name": name
            if name != _OURSELVES
            else "",  # `srun tracker-stream run ...` is named after what it starts
        },
        tags={
            "array_task": index if array else "",
            "het_group": component,
            "step": get("SLURM_STEP_ID", "batch" if "SLURMD_NODENAME" in environment else ""),
            "attempt": get("SLURM_RESTART_COUNT", "0"),
            "host": get("SLURMD_NODENAME"),
        },
    )


def _het_component(environment: Environment) -> str:
    """Which component of a heterogeneous job: the one that has our node. All have the first one's SLURM_JOB_ID."""
    node = environment.get("SLURMD_NODENAME", "")
    components = ((_HET_NODES.fullmatch(key), text) for key, text in environment.items())
    found = [match.group(1) for match, nodes in components if match and _has_node(nodes, node)]
    return found[0] if len(found) == 1 else ""


def _has_node(nodes: str, node: str) -> bool:
    """Whether SLURM's list, e.g. "login,gpu[01-03,07]", has the node."""
    for prefix, ranges in _NODES.findall(nodes):
        number = node[len(prefix) :]
        bounds = [part.split("-") for part in ranges.split(",")] if node.startswith(prefix) and number.isdigit() else []
        if node == prefix + ranges or any(
            ends[0] <= number <= ends[-1] for ends in bounds if len(ends[0]) == len(number)
        ):
            return True
    return False


def _metaflow(environment: Environment, _root: Path) -> Placement:
    """Of a process that a step starts; inside the step itself `metaflow.current` tells more (`frameworks`)."""
    run_id = environment.get("METAFLOW_RUN_ID", "")
    if not run_id:
        return Placement()
    return _of(job=run_id, metadata={"orchestrator": "metaflow"}, tags={})


def _airflow(environment: Environment, _root: Path) -> Placement:
    """Airflow, "Export dynamic environment variables available for operators to use"."""
    context = {name: environment.get(f"AIRFLOW_CTX_{name}", "") for name in ("DAG_ID", "TASK_ID", "DAG_RUN_ID")}
    if not context["DAG_ID"]:
        return Placement()
    return _of(
        job=context["DAG_RUN_ID"],
        metadata={"orchestrator": "airflow", "job_name": context["DAG_ID"], "task_name": context["TASK_ID"]},
        tags={"attempt": _counted_from_1(environment.get("AIRFLOW_CTX_TRY_NUMBER", ""))},
    )


def _gitlab_ci(environment: Environment, _root: Path) -> Placement:
    """GitLab, "Predefined CI/CD variables reference". A retried job has an id of its own in the same pipeline."""
    get = environment.get
    if get("GITLAB_CI") != "true":
        return Placement()
    return _of(
        job=get("CI_PIPELINE_ID", ""),
        metadata={
            "orchestrator": "gitlab-ci",
            "external_run_id": get("CI_JOB_ID"),
            "project_name": get("CI_PROJECT_PATH"),
            "stage_name": get("CI_JOB_STAGE"),
            "job_name": get("CI_JOB_NAME"),
        },
        tags={"array_task": get("CI_NODE_INDEX"), "host": get("CI_RUNNER_DESCRIPTION")},
    )


def _github_actions(environment: Environment, _root: Path) -> Placement:
    """GitHub, "Variables reference", default environment variables."""
    get = environment.get
    if get("GITHUB_ACTIONS") != "true":
        return Placement()
    return _of(
        job=get("GITHUB_RUN_ID", ""),
        metadata={
            "orchestrator": "github-actions",
            "project_name": get("GITHUB_REPOSITORY"),
            "stage_name": get("GITHUB_WORKFLOW"),
            "job_name": get("GITHUB_JOB"),
        },
        tags={"attempt": _counted_from_1(get("GITHUB_RUN_ATTEMPT", "")), "host": get("RUNNER_NAME")},
    )


def _kubernetes(environment: Environment, _root: Path) -> Placement:
    """KUBERNETES_SERVICE_HOST is in every pod. The others are downward API fields, named as in our README.

    JOB_NAME: `metadata.labels['batch.kubernetes.io/job-name']`; POD_NAME, POD_NAMESPACE, NODE_NAME: `metadata.name`,
    `metadata.namespace`, `spec.nodeName`. JOB_COMPLETION_INDEX is set by indexed Jobs. A pod's host name is its name.
    """
    get = environment.get
    if "KUBERNETES_SERVICE_HOST" not in environment:
        return Placement()
    pod = get("POD_NAME") or get("HOSTNAME", "")
    return _of(
        job=get("JOB_NAME") or pod,
        metadata={
            "orchestrator": "kubernetes",
            "executor": "kubernetes",
            "external_run_id": pod,
            "job_name": get("JOB_NAME"),
        },
        tags={"array_task": get("JOB_COMPLETION_INDEX"), "namespace": get("POD_NAMESPACE"), "host": get("NODE_NAME")},
    )


def _jupyter(environment: Environment, _root: Path) -> Placement:
    """jupyter_server gives a kernel JPY_SESSION_NAME, its notebook's path; every kernel has JPY_PARENT_PID."""
    if "JPY_PARENT_PID" not in environment:
        return Placement()
    notebook = environment.get("JPY_SESSION_NAME", "")
    return _of(metadata={"orchestrator": "jupyter", "job_name": Path(notebook).stem if notebook else ""}, tags={})


def _torchrun(environment: Environment, _root: Path) -> Placement:
    """PyTorch, "torchrun (Elastic Launch)", environment variables. "none" is the run id of who gave none."""
    run_id = environment.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return Placement()
    return _of(
        job="" if run_id == "none" else run_id,
        metadata={},
        tags={"attempt": environment.get("TORCHELASTIC_RESTART_COUNT")},
    )


def _mpi(environment: Environment, root: Path) -> Placement:
    """PMIX_NAMESPACE (PMIx standard: the name of a job, here of one start by mpirun or srun); MPICH's is its proxy's port."""
    job = environment.get("PMIX_NAMESPACE") or (_hydra_control_port(root) if "PMI_RANK" in environment else "")
    if not job:
        return Placement()
    name = "openmpi" if "OMPI_COMM_WORLD_RANK" in environment else "mpich" if "PMI_RANK" in environment else "pmix"
    return _of(job=job, metadata={"orchestrator": name}, tags={"mpi_job": job})


def _hydra_control_port(root: Path) -> str:
    """Where mpiexec of MPICH listens: all its proxies are told so, `--control-port HOST:PORT`, and nothing else is alike."""
    for words in _ancestors(root):
        if words and Path(words[0]).name == "hydra_pmi_proxy" and "--control-port" in words[:-1]:
            return words[words.index("--control-port") + 1]
    return ""


def _ancestors(root: Path) -> Iterator[list[str]]:
    """The command lines of the processes above, the parent first."""
    at = "self"
    for _ in range(_ANCESTORS_MAX):
        try:
            at = (root / f"proc/{at}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            yield (root / f"proc/{at}/cmdline").read_text(errors="replace").split("\0")
        except (OSError, IndexError):
            return


_Launcher = Callable[[Environment, Path], Placement]
_LAUNCHERS: tuple[_Launcher, ...] = (
    _slurm, _metaflow, _airflow, _gitlab_ci, _github_actions, _kubernetes, _torchrun, _mpi, _jupyter
)  # fmt: skip
