"""The API process: `python -c "...serve.main()"` with its settings as JSON on standard input."""

from __future__ import annotations

import sys

import uvicorn

from streaming.server.api.app import create_app
from streaming.server.settings import ApiSettings

_KEEP_ALIVE_S = 15


def main() -> None:
    """Serve until killed. What was answered is durable already, so SIGKILL loses nothing."""
    settings = ApiSettings.from_json(sys.stdin.buffer.read())
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http="h11",
        ws="none",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
