"""Which runs a name means: a run's own name or a part of it, its job's id or name, the scheduler's id, `latest`."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

from spool import Run, Spool, SpoolError, directory
from spool.errors import NoSuchRun
from streaming.read.jobs import job_id_of

LATEST = "latest"
_SHOWN_MAX = 5


def find_runs(in_directory: Path, names: tuple[str, ...]) -> list[Path]:
    """The spools of all the runs that the names mean, each once, in the order of the names. Raises NoSuchRun."""
    return list(dict.fromkeys(path for name in names for path in named(in_directory, name)))


def find_run(in_directory: Path, name: str) -> Path:
    """The newest of the runs that a name means. Raises NoSuchRun."""
    return named(in_directory, name)[-1]


def named(in_directory: Path, name: str) -> list[Path]:
    """All runs that a name means, oldest first; at least one.

    A run's own name counts before its job's id, that before a job's name, and a part of a run's name comes last: it must
    be unique. Raises NoSuchRun if there is none, or if a part is not.
    """
    literal = Path(name)
    if literal.suffix == directory.SUFFIX and literal.is_file():
        return [literal.absolute()]
    paths = directory.spool_paths(in_directory)
    if name == LATEST and paths:
        return paths[-1:]
    if own := [path for path in paths if name in (path.stem, directory.short_name(path))]:
        return own
    return _of_job(paths, name) or [_by_part(in_directory, paths, name)]


def _of_job(paths: list[Path], name: str) -> list[Path]:
    """The runs of the job with this id; else those with this id of their scheduler's or the service's; else the namesakes."""
    runs = {path: run for path in paths if (run := _run_of(path)) is not None}
    for identities in (
        {path: {job_id_of(run)} for path, run in runs.items()},
        {path: _ids_of(run) for path, run in runs.items()},
        {path: {str(run.metadata.get("job_name"))} for path, run in runs.items()},
    ):
        if found := [path for path, known in identities.items() if name in known]:
            return found
    return []


def _ids_of(run: Run) -> set[str]:
    return {str(run.metadata.get("external_run_id")), run.registration.run_id if run.registration else ""}


def _run_of(path: Path) -> Run | None:
    """What cannot be read has no job, and is found by its name."""
    with suppress(SpoolError), closing(Spool(path)) as spool:
        return spool.run()
    return None


def _by_part(in_directory: Path, paths: list[Path], name: str) -> Path:
    matches = [path for path in paths if name in path.stem]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listing = ", ".join(path.stem for path in matches[:_SHOWN_MAX])
        raise NoSuchRun(f"{name!r} is ambiguous: {listing}", path=in_directory, hint="give more characters")
    raise NoSuchRun(f"no run or job {name!r} in {in_directory}", path=in_directory, hint="see: tracker-stream status")
