"""What recording and delivering need, examined one thing at a time. Never sends a row; every network look is short.

Each check returns findings; a finding that is not OK says what to do. Nothing here knows a terminal.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from spool import Batch, NewRun, Spool, SpoolError, directory, key, system
from spool.recovery.audit import audit
from streaming import config
from streaming.collect.redaction import redact_text
from streaming.errors import StreamError, Transient, Unauthorized
from streaming.processes.engine_link import ask_all
from streaming.processes.runtime_folder import runtime_folder

NETWORK_DEADLINE_S = 5.0
COMMITS = 3
COMMIT_SLOW_S = 0.1
FREE_LOW_BYTES = 1 << 30
FREE_LEAST_BYTES = 16 << 20
SKEW_WARN_S = 60.0
SKEW_FAIL_S = 900.0  # from 15 minutes on S3 refuses requests
PACKAGE = "streaming"
DISTRIBUTION = "tracker-stream"


class Level(str, Enum):
    """How it stands."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line. `hint` says what to do, and is empty only if all is well."""

    level: Level
    check: str
    text: str
    hint: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(Level.OK, check, text)


def warn(check: str, text: str, hint: str) -> Finding:
    return Finding(Level.WARN, check, text, hint)


def fail(check: str, text: str, hint: str) -> Finding:
    return Finding(Level.FAIL, check, text, hint)


@dataclass(frozen=True)
class Context:
    """What the checks look at."""

    spool_dir: Path
    token_file: str | None
    api_url: str | None
    s3_endpoint_url: str | None
    environment: Mapping[str, str]


Check = Callable[[Context], Iterator[Finding]]


def run_checks(context: Context) -> Iterator[Finding]:
    """All checks in turn; findings as they come. A check that itself fails is a finding too."""
    for name, check in CHECKS.items():
        try:
            yield from check(context)
        except (SpoolError, StreamError) as error:
            yield fail(name, error.message, error.hint or "see the text")
        except Exception as error:  # noqa: BLE001 - the other checks still tell something
            yield fail(name, f"the check itself failed: {error!r}", "please report this defect")


def check_run(path: Path) -> Iterator[Finding]:
    """Whether a run's file is whole: its structure, every row, every segment that is still to be sent."""
    name = f"run {directory.short_name(path)}"
    try:
        problems = audit(path)
    except SpoolError as error:
        yield fail(name, error.message, error.hint or "see the text")
        return
    for problem in problems:
        yield fail(name, problem, "tracker-stream drain delivers what is whole, and keeps the damaged file")
    if not problems:
        yield ok(name, f"{path} is whole")


def check_spool_directory(context: Context) -> Iterator[Finding]:
    """Path and modes, locks, file system, free space."""
    path = context.spool_dir
    directory.prepare(path)
    yield ok("spool directory", f"{path} (private, writable, locks work)")
    yield from _file_system(path)
    yield from _space(path)


def _file_system(path: Path) -> Iterator[Finding]:
    kind = file_system_of(path)
    if kind is None:
        return
    if kind in ("tmpfs", "ramfs"):
        yield warn(
            "file system",
            f"{kind}: its files are lost with the machine's power",
            f"use a directory on a disk: {directory.ENVIRONMENT_VARIABLE}",
        )
    elif kind.startswith(("nfs", "cifs", "smb", "lustre", "fuse", "9p", "gpfs", "beegfs")):
        yield warn(
            "file system",
            f"{kind}: commits over a network are slow, and its locks may be",
            f"if there is a local disk: {directory.ENVIRONMENT_VARIABLE}",
        )
    else:
        yield ok("file system", kind)


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the file system that holds `path`, None where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    whole = os.path.realpath(path)
    found: tuple[int, str] | None = None
    for fields in (line.split() for line in lines):
        point = fields[1].replace("\\040", " ")
        is_above = whole == point or whole.startswith(point.rstrip("/") + "/")
        if is_above and (found is None or len(point) >= found[0]):  # a later mount hides an earlier one
            found = (len(point), fields[2])
    return found[1] if found else None


def _space(path: Path) -> Iterator[Finding]:
    """Free space by the file system's word, and by really allocating some: quotas and limits show only then."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    text = f"{free / 1e9:.1f} GB free"
    hint = f"free space on the disk of {path}"
    if free < FREE_LEAST_BYTES:
        yield fail("space", text, hint)
        return
    yield warn("space", text, hint) if free < FREE_LOW_BYTES else ok("space", text)
    yield from _quota(path)


def _quota(path: Path) -> Iterator[Finding]:
    scratch = path / f".probe-{secrets.token_hex(8)}"
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_RDWR, system.FILE_MODE)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, FREE_LEAST_BYTES)
        yield ok("quota", f"{FREE_LEAST_BYTES >> 20} MiB could be allocated")
    except OSError as error:
        reason = error.strerror or str(error)
        yield fail(
            "quota",
            f"{FREE_LEAST_BYTES >> 20} MiB could not be allocated ({reason})",
            "raise your disk quota or file size limit (ulimit -f), or use another directory",
        )
    finally:
        os.close(descriptor)
        scratch.unlink()


def check_commit(context: Context) -> Iterator[Finding]:
    """Durable appends into a spool of its own, timed: the fastest, as others may be using the disk."""
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=context.spool_dir) as scratch:
        new = NewRun(
            tracker=system.identify(os.getpid()), started_at=time.time(), metadata={}, host_info={}, cloud_info={}
        )
        with closing(Spool.create(Path(scratch) / "spools", new)) as spool:
            took_s = min(_append_s(spool) for _ in range(COMMITS))
    text = f"a durable commit took {took_s * 1000:.1f} ms"
    if took_s > COMMIT_SLOW_S:
        yield warn("commit", text, f"a local disk is faster: {directory.ENVIRONMENT_VARIABLE}")
    else:
        yield ok("commit", text)


def _append_s(spool: Spool) -> float:
    began_at = time.perf_counter()
    spool.append([Batch(b"timestamp\n", b"0\n")])
    return time.perf_counter() - began_at


def check_key(_context: Context) -> Iterator[Finding]:
    """What proves that a run is this user's own (`spool.key`)."""
    place = key.path()
    if key.proof([]):
        yield ok("key", f"{place} (private)")
        return
    where = place or "a home directory, which is not known"
    yield warn(
        "key",
        f"there is none in {where}: what a CSV file still holds when its program dies is not taken over",
        f"let it be a file of 32 bytes of yours with mode 0600, or remove it, and let {place.parent} be writable"
        if place
        else "set HOME",
    )


def check_sampler(_context: Context) -> Iterator[Finding]:
    """Whether this process itself can be sampled."""
    from streaming.collect.sampler import Sampler

    sampler = Sampler(os.getpid())
    time.sleep(0.02)
    row = sampler.sample()
    if row is None:
        yield fail("sampler", "no sample of this very process", "is /proc mounted and readable?")
        return
    source = "procfs" if Path("/proc/self").exists() else "psutil"
    yield ok("sampler", f"{len(sampler.latest)} columns from {source}")


def check_token(context: Context) -> Iterator[Finding]:
    """Where the token is from, and who may read its file."""
    token = config.find_token(context.token_file)
    if token is None:
        yield warn(
            "token",
            "there is none: runs are recorded and kept, nothing is sent",
            f"set {config.TOKEN}, or {config.TOKEN_FILE} to a file that holds it",
        )
        return
    if token.source == config.TOKEN_FALLBACK:
        yield warn("token", f"from {config.TOKEN_FALLBACK}, its old name", f"call the variable {config.TOKEN}")
    elif token.source == config.TOKEN:
        yield ok("token", f"from {config.TOKEN}")
    else:
        yield _token_file(Path(token.source).expanduser())


def _token_file(path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return warn("token", f"from {path}, which others may read (mode {mode:04o})", f"chmod 600 {path}")
    return ok("token", f"from {path} (mode {mode:04o})")


def check_service(context: Context) -> Iterator[Finding]:
    """Is the service there, does it take the token, and how far apart are the clocks?"""
    from streaming.clients.sentinel import SentinelApi

    url = config.api_url(context.api_url)
    token = config.find_token(context.token_file)
    api = SentinelApi(
        token.text if token else "none", base_url=url, deadline_s=NETWORK_DEADLINE_S, read_timeout_s=NETWORK_DEADLINE_S
    )
    try:
        skew_s = api.check_token() if token else api.check()
    except Unauthorized:
        yield fail("service", f"{url} refuses the token", f"get a valid token and set {config.TOKEN}")
        return
    except Transient as error:
        yield fail("service", f"{url}: {error.message}", _remedy(error))
        return
    except StreamError as error:
        yield fail("service", f"{url}: {error.message}", "is this the address of the service?")
        return
    yield ok("service", f"{url} answers" + (" and accepts the token" if token else ""))
    yield _clock(skew_s)


def _clock(skew_s: float) -> Finding:
    if abs(skew_s) < SKEW_WARN_S:
        return ok("clock", f"within {abs(skew_s):.0f} s of the service's")
    where = "behind" if skew_s > 0 else "ahead"
    found = fail if abs(skew_s) >= SKEW_FAIL_S else warn
    return found("clock", f"this machine is {abs(skew_s):.0f} s {where}", "set the clock (NTP); S3 refuses 15 minutes")


def check_store(context: Context) -> Iterator[Finding]:
    """Is S3 there? An unsigned look at its door; nothing is put."""
    from streaming.clients.s3 import check_reachable

    url = config.s3_endpoint_url(context.s3_endpoint_url)
    name = url or "S3 (AWS)"
    try:
        check_reachable(url, deadline_s=NETWORK_DEADLINE_S)
    except Transient as error:
        yield fail("S3", f"{name}: {error.message}", _remedy(error))
        return
    yield ok("S3", f"{name} answers")


def _remedy(error: Transient) -> str:
    from streaming.clients.http import remedy

    return error.hint or remedy(error.cause) or "check address and network; rows are kept meanwhile"


def check_proxies(context: Context) -> Iterator[Finding]:
    """Which proxies the environment names; passwords in them are not shown."""
    names = ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    found = {name: context.environment.get(name) or context.environment.get(name.lower()) for name in names}
    text = ", ".join(f"{name}={redact_text(value)}" for name, value in found.items() if value)
    yield ok("proxies", text or "none")


def check_certificates(context: Context) -> Iterator[Finding]:
    """Which files of trusted certificates the environment names; all of them count, for every connection."""
    from streaming.clients.certificates import named

    try:
        found = named(context.environment)
    except Transient as error:
        yield fail("certificates", error.message, error.hint)
        return
    paths = ", ".join(f"{variable}={path}" for variable, path in found.items())
    yield ok("certificates", paths or "the usual ones (SSL_CERT_FILE may name others)")


def check_uploader(context: Context) -> Iterator[Finding]:
    """Which process delivers the runs of the directory now, and whether one could be met here."""
    try:
        with runtime_folder():
            pass
    except OSError as error:
        yield warn(
            "uploader",
            f"each run has one of its own, for there is no private folder for a socket ({error.strerror})",
            "set XDG_RUNTIME_DIR or TMPDIR to a folder that only you can open",
        )
        return
    found = ask_all(context.spool_dir)
    text = ", ".join(f"pid {engine['pid']} with {len(engine['runs'])} run(s)" for engine in found)
    yield ok("uploader", text or "none runs now; the next run, or drain, starts one")


def check_packages(_context: Context) -> Iterator[Finding]:
    """Whether another distribution installs a package of the same name: one of the two is overwritten then."""
    from importlib.metadata import packages_distributions

    others = sorted(set(packages_distributions().get(PACKAGE, [])) - {DISTRIBUTION})
    if others:
        yield fail(
            "packages",
            f"{', '.join(others)} also installs a package named {PACKAGE!r}",
            "the two need separate environments: make one for tracker-stream",
        )
    else:
        yield ok("packages", f"no other distribution installs {PACKAGE!r}")


def check_python(_context: Context) -> Iterator[Finding]:
    """Which interpreter this is: the first question of every report."""
    version = "unknown"
    with suppress(Exception):
        from importlib.metadata import version as version_of

        version = version_of(DISTRIBUTION)
    yield ok("version", f"tracker-stream {version}, Python {sys.version.split()[0]}, {sys.platform}")


CHECKS: dict[str, Check] = {
    "version": check_python,
    "packages": check_packages,
    "spool directory": check_spool_directory,
    "commit": check_commit,
    "key": check_key,
    "sampler": check_sampler,
    "token": check_token,
    "proxies": check_proxies,
    "certificates": check_certificates,
    "uploader": check_uploader,
    "service": check_service,
    "S3": check_store,
}
