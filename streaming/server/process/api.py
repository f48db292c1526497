"""Start the API in a process of its own and see that it answers."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from streaming.server.errors import StartFailed
from streaming.server.process.directory import ServerDirectory
from streaming.server.process.guarded import Guarded, launch, log_tail
from streaming.server.settings import ApiSettings

START_TIMEOUT_S = 60.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from streaming.server.api.serve import main; main()"
_KEPT_OUT_PREFIXES = ("AWS_", "SENTINEL_", "TRACKER_STREAM_")


def start_api(directory: ServerDirectory, settings: ApiSettings, *, detach: bool) -> Guarded:
    """Start it and return when it answers on its port. Raises StartFailed."""
    process = launch(
        [sys.executable, "-c", _PROGRAM, str(_PACKAGE_ROOT)],
        directory=directory.path,
        log=directory.api_log,
        stdin=settings.to_json(),
        env=_environment(os.environ),
        detach=detach,
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_answering(settings):
        if not process.is_running() or time.monotonic() > deadline:
            process.stop()
            raise StartFailed(f"The API did not come up on port {settings.port}: {log_tail(directory.api_log)}")
        time.sleep(0.05)
    return process


def is_answering(settings: ApiSettings) -> bool:
    """Whether this very instance answers. Direct: no proxy of the environment comes between."""
    connection = http.client.HTTPConnection(reachable(settings.host), settings.port, timeout=2)
    try:
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(answer, dict) and answer.get("instance") == settings.instance


def reachable(host: str) -> str:
    """Where this machine reaches a server that binds `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def url_of(host: str, port: int) -> str:
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _environment(ambient: Mapping[str, str]) -> dict[str, str]:
    """Ours comes on standard input; the caller's keys and endpoints stay with the caller."""
    return {name: value for name, value in ambient.items() if not name.startswith(_KEPT_OUT_PREFIXES)}
