"""The engine as a process of its own: its order, its socket, its log."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from streaming.processes import engine_socket
from streaming.upload.engine import Engine

LOG_MAX_BYTES = 1 << 20


def main(order: dict[str, Any]) -> int:
    """The child's entry."""
    start_logging(int(order["log_level"]))
    engine = Engine(Path(order["spool_directory"]))
    if "listener" in order:
        listener = socket.socket(fileno=order["listener"])
        engine.listen(engine_socket.Claim(order["name"], order["lock"], listener))
        engine_socket.sweep()
    else:
        engine.meet(socket.socket(fileno=order["connection"]))
    engine.heed_signals()
    engine.serve()
    return 0


def start_logging(level: int) -> None:
    """Our own lines to stderr, which is a log file. Others' from warnings on: at DEBUG botocore tells its keys."""
    logging.basicConfig(
        handlers=[_Log(sys.stderr)], level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    for package in ("streaming", "spool"):
        logging.getLogger(package).setLevel(level)


class _Log(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 takes none there
    """A file that begins anew when it has become too long: an engine may serve for months."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            status = os.fstat(self.stream.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > LOG_MAX_BYTES:
                os.ftruncate(self.stream.fileno(), 0)
        super().emit(record)
