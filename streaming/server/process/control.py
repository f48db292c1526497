"""Bring the server up in the background, see what runs, and end exactly what was started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streaming.server.errors import NotRunning
from streaming.server.process.api import is_answering
from streaming.server.process.directory import ServerDirectory
from streaming.server.process.embedded import EmbeddedServer
from streaming.server.process.guarded import Guarded
from streaming.server.settings import ApiSettings, S3Settings


@dataclass(frozen=True)
class Status:
    """What was recorded of a server, and what of it runs now. `s3` None: the S3 is not ours to run."""

    api: Guarded
    s3: Guarded | None
    api_url: str
    environment: dict[str, str]
    host: str
    port: int
    instance: str
    bucket: str
    credential_lifetime_s: int

    @property
    def is_up(self) -> bool:
        return self.api.is_running() and (self.s3 is None or self.s3.is_running())

    def is_answering(self) -> bool:
        return self.is_up and is_answering(_probe_settings(self))

    def as_json(self) -> dict[str, Any]:
        processes = {"api": self.api, **({"s3": self.s3} if self.s3 else {})}
        return {
            "up": self.is_answering(),
            "api_url": self.api_url,
            "s3_endpoint_url": self.environment.get("SENTINEL_S3_ENDPOINT_URL"),
            "bucket": self.bucket,
            "credential_lifetime_s": self.credential_lifetime_s,
            "processes": {
                name: {"pid": process.command.pid, "running": process.is_running()}
                for name, process in processes.items()
            },
        }


def record(server: EmbeddedServer) -> Status:
    """Write down what runs, for `status`, `env` and `down` of other shells. No secret is in it.

    Killed before: nothing is left running. Killed after: it runs, or what is written names processes that have ended.
    """
    assert server.api_process is not None
    server.directory.write_state(
        {
            "api": server.api_process.as_json(),
            "s3": server.s3_process.as_json() if server.s3_process else None,
            "api_url": server.api_url,
            "environment": server.environment(),
            "host": server.settings.host,
            "port": server.settings.port,
            "instance": server.settings.instance,
            "bucket": server.bucket,
            "credential_lifetime_s": server.settings.credential_lifetime_s,
        }
    )
    server.directory.remember_port(server.settings.port)
    status = read_status(server.directory)
    assert status is not None
    return status


def read_status(directory: ServerDirectory) -> Status | None:
    """What was recorded; None if nothing was."""
    state = directory.read_state()
    try:
        s3 = state.pop("s3")
        return Status(api=Guarded.from_json(state.pop("api")), s3=Guarded.from_json(s3) if s3 else None, **state)
    except (KeyError, TypeError):  # nothing, or what another version wrote
        return None


def running(directory: ServerDirectory) -> Status:
    """The server that answers now. Raises NotRunning."""
    status = read_status(directory)
    if status is None or not status.is_answering():
        raise NotRunning(f"No server runs in {directory.path}.", hint="Start one with `tracker-stream server up`.")
    return status


def bring_down(directory: ServerDirectory) -> bool:
    """End the recorded processes (known by pid and start time) and forget them; False if nothing ran."""
    status = read_status(directory)
    if status is None:
        return False
    found = [process for process in (status.api, status.s3) if process and _anything_left(process)]
    for process in found:
        process.stop()
    directory.forget_state()
    return bool(found)


def _anything_left(process: Guarded) -> bool:
    return process.is_running() or process.guard.is_running()


def _probe_settings(status: Status) -> ApiSettings:
    unused = S3Settings(bucket=status.bucket, role_arn="", access_key="", secret_key="")
    return ApiSettings(directory="", instance=status.instance, s3=unused, host=status.host, port=status.port)
