"""A whole Ceph with its object gateway (RGW) in one folder: a monitor, an object store in memory, and the gateway.

Debian's `ceph-mon`, `ceph-osd`, `radosgw` and `ceph-common`. No manager, no authentication between its parts; up in a
few seconds. Everything is on loopback and ends with the `with` block.
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
START_S = 150.0  # 15 s on an idle machine
TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/admin"]}, "Action": "sts:AssumeRole"}]
}
ALLOW = {"Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}]}
CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data = {folder}/mon
mon data avail warn = 0
mon data avail crit = 0
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw s3 auth use sts = true
rgw sts key = abcdefghijklmnop
rgw thread pool size = 32
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Gateway:
    """A running RGW with a user `admin` and a role `uploader`. Can be killed and started again: objects stay."""

    access_key, secret_key = "CEPHADMIN", "ceph-admin-secret"
    role_arn = "arn:aws:iam:::role/uploader"

    def __init__(self, folder: Path, *, port: int) -> None:
        self._folder = folder
        self._config = folder / "ceph.conf"
        self.url = f"http://127.0.0.1:{port}"
        self._running: list[subprocess.Popen[bytes]] = []
        self._gateway: subprocess.Popen[bytes] | None = None

    def begin(self, *, mon_port: int) -> None:
        fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        port = self.url.rpartition(":")[2]
        self._config.write_text(CONFIG.format(fsid=fsid, folder=self._folder, mon_port=mon_port, port=port))
        for name in ("mon", "osd"):
            (self._folder / name).mkdir()
        monmap = str(self._folder / "monmap")
        self._do("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", monmap)
        self._do("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._running.append(self._start("ceph-mon", "-i", "a"))
        self._do("ceph", "--connect-timeout", "30", "osd", "new", osd_id)
        self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self._do("ceph", "osd", "crush", "add", "0", "1.0", "root=default", "host=h")
        self._running.append(self._start("ceph-osd", "-i", "0"))
        self.start()
        keys = (f"--access-key={self.access_key}", f"--secret={self.secret_key}")
        self._do("radosgw-admin", "user", "create", "--uid=admin", "--display-name=admin", *keys)
        role = "--role-name=uploader"
        self._do("radosgw-admin", "role", "create", role, f"--assume-role-policy-doc={json.dumps(TRUST)}")
        policy = f"--policy-doc={json.dumps(ALLOW)}"
        self._do("radosgw-admin", "role-policy", "put", role, "--policy-name=all", policy)

    def start(self) -> None:
        self._gateway = self._start("radosgw", "-n", "client.rgw", "--no-mon-config")
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert all(each.poll() is None for each in (self._gateway, *self._running)), "a part of Ceph ended"
            assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def end(self) -> None:
        self.kill()
        for process in reversed(self._running):
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/", timeout=5):
                return True
        except HTTPError as error:
            error.close()
            return True
        except (URLError, OSError):
            return False

    def _do(self, program: str, *arguments: str) -> None:
        command = [program, *arguments] if program == "monmaptool" else [program, "-c", str(self._config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, cwd=self._folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def _start(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """In the foreground, so that it is our child."""
        command = [program, "-c", str(self._config), "-f", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)


@contextmanager
def gateway(folder: Path, *, port: int, mon_port: int) -> Iterator[Gateway]:
    made = Gateway(folder, port=port)
    try:
        made.begin(mon_port=mon_port)
        yield made
    finally:
        made.end()
        with suppress(OSError):
            os.unlink(folder / "client.rgw.asok")
