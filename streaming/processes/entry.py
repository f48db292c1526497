"""Being started: what one of our processes does first, and how it leaves. Its starter is `launch`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from streaming.processes.system import forbid_core_dumps

_ENTRIES = {
    "uploader": "streaming.upload.main",
    "tracker": "streaming.record.tracker",
    "discovery": "streaming.collect.host",
}


def enter(entry: str) -> None:
    """The child's side: read the order, run the entry's `main(order)`, leave without the caller's exit handlers."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the starting thread may have blocked what we listen to
    forbid_core_dumps()  # our memory holds the token and the keys
    order = json.loads(read_line(0))
    code = 1
    try:
        main: Callable[[dict[str, Any]], int] = importlib.import_module(_ENTRIES[entry]).main
        code = main(order)
    except BaseException as defect:  # noqa: BLE001 - we end here, and nobody else would tell
        _tell_defect(entry, defect)
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _tell_defect(entry: str, defect: BaseException) -> None:
    """Into the log, without the exception's text: of an error that nobody foresaw nobody knows what it quotes."""
    import traceback

    frames = "".join(traceback.format_tb(defect.__traceback__))
    with suppress(OSError, ValueError):
        print(f"{entry}.defect: {type(defect).__name__}\n{frames}", file=sys.stderr)


def read_line(descriptor: int) -> bytes:
    """Not a byte more: what follows is for others."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return bytes(line)
