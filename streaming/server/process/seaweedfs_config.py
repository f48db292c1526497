"""What SeaweedFS is told at each start: who may use S3, and that nobody but itself may use anything else.

Its master, volume server and filer talk to one another by HTTP and gRPC on ports of their own, which by themselves ask
for no key: whoever reached the master's port could delete everything. All of them speak TLS here and take only clients
that show the one certificate there is, made anew at each start and readable by the owner alone. The signed tokens (`jwt`)
stand behind that as a second lock.

Left out: `-disableHttp`, because the volume server carries the rows by HTTP; a whitelist of addresses, because every user
and every browser of this machine has the same address; a network namespace, because many kernels refuse it to users.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from spool.whole_files import write_private

CERTIFICATE, KEY = "inner-certificate.pem", "inner-key.pem"
ROLE_ARN = "arn:aws:iam::000000000000:role/uploader"
_ADMIN_NAME = "server"
_ADMIN_ARN = f"arn:aws:iam::000000000000:user/{_ADMIN_NAME}"  # as SeaweedFS names an identity without an account
_GRPC_PARTS = ("master", "volume", "filer", "s3", "client")
_HTTPS_PARTS = ("master", "volume", "filer", "client")
_JWT_KINDS = ("signing", "signing.read", "filer_signing", "filer_signing.read")


@dataclass(frozen=True)
class StorePlan:
    """What is kept from one start to the next: the keys that the server holds, and the port that clients know."""

    bucket: str
    port: int
    access_key: str
    secret_key: str = field(repr=False)
    signing_key: str = field(repr=False)

    @classmethod
    def new(cls, bucket: str, port: int) -> StorePlan:
        access_key = f"TARGET{secrets.token_hex(7).upper()}"
        signing_key = base64.b64encode(secrets.token_bytes(32)).decode()
        return cls(bucket, port, access_key, secrets.token_urlsafe(30), signing_key)

    @classmethod
    def read(cls, path: Path) -> StorePlan | None:
        """None where none is or none can be read (keys can be made anew: the objects do not depend on them)."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self), indent=1).encode())


def write_configuration(directory: Path, plan: StorePlan, *, host: str) -> None:
    """All files that `weed` reads, for its owner only."""
    certificate, key = _new_certificate(host)
    write_private(directory / CERTIFICATE, certificate)
    write_private(directory / KEY, key)
    write_private(directory / "security.toml", _security().encode())
    write_private(directory / "identities.json", json.dumps(_identities(plan)).encode())
    write_private(directory / "iam.json", json.dumps(_iam(plan)).encode())


def _new_certificate(host: str) -> tuple[bytes, bytes]:
    """One self-signed certificate for both ends of all inner connections, and its key; neither expires."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tracker-stream")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _security() -> str:
    pair = f'cert = "{CERTIFICATE}"\nkey = "{KEY}"\n'
    return "".join(
        [
            f'[grpc]\nca = "{CERTIFICATE}"\n',
            *(f"[grpc.{part}]\n{pair}" for part in _GRPC_PARTS),
            *(f'[https.{part}]\nenabled = true\n{pair}ca = "{CERTIFICATE}"\n' for part in _HTTPS_PARTS),
            *(f'[jwt.{kind}]\nkey = "{secrets.token_urlsafe(30)}"\n' for kind in _JWT_KINDS),
        ]
    )


def _identities(plan: StorePlan) -> Mapping[str, Any]:
    credentials = [{"accessKey": plan.access_key, "secretKey": plan.secret_key}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"identities": [{"name": _ADMIN_NAME, "credentials": credentials, "actions": actions}]}


def _iam(plan: StorePlan) -> Mapping[str, Any]:
    """A role that may put objects into the bucket; each session's policy narrows it to one prefix.

    Only the server may assume it: with `"Principal": "*"` an uploader could assume it anew, without the narrowing.
    """
    put = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{plan.bucket}/*"]}
    trust = {"Effect": "Allow", "Principal": {"AWS": _ADMIN_ARN}, "Action": ["sts:AssumeRole"]}
    role = {
        "roleName": "uploader",
        "roleArn": ROLE_ARN,
        "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
        "attachedPolicies": ["put"],
    }
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "tracker-stream",
            "signingKey": plan.signing_key,
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [{"name": "put", "document": {"Version": "2012-10-17", "Statement": [put]}}],
        "roles": [role],
    }
