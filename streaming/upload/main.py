"""The engine as a process of its own: its order, its socket, its log."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import Any

from streaming.processes import engine_socket
from streaming.upload.engine import Engine


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
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for package in ("streaming", "spool"):
        logging.getLogger(package).setLevel(level)
