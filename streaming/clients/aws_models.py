"""What AWS's own description of S3 says about putting an object: a fiftieth of it, for a process that does nothing else.

botocore reads megabytes of JSON to make a client. What is left of their memory once they are cut down is in pieces, which
the allocator never gives back: so a process of a tenth of a second reads and cuts them, and hands over the rest.
It is this module, with the standard library only.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPERATIONS = ("PutObject", "HeadBucket")  # the second by botocore itself: another region is meant, and none is named
_SERVICE = "s3"
_TIMEOUT_S = 10.0
_PROGRAM = (
    "import sys; sys.path[:0] = sys.argv[1:2]; from streaming.clients import aws_models; aws_models.main(sys.argv[2])"
)


class PutObjectOnly:
    """A loader of botocore's files (`file_loader` of `botocore.loaders.Loader`). Paths are without their endings."""

    def exists(self, file_path: str) -> bool:
        return _file(file_path) is not None

    def load_file(self, file_path: str) -> Any:
        """The content, None if there is no such file. Raises OSError, ValueError."""
        path = _file(file_path)
        if path is None:
            return None
        return json.loads(_cut_elsewhere(path)) if _is_large(path) else _content(path)


def main(path: str) -> None:
    """The program: the file, cut down, to stdout."""
    json.dump(cut(_content(path)), sys.stdout, separators=(",", ":"))


def cut(content: dict[str, Any]) -> dict[str, Any]:
    """A service's operations, with the shapes that they need; or the partitions of AWS, with our service's endpoints."""
    if "operations" in content:
        operations = {name: content["operations"][name] for name in OPERATIONS}
        shapes = _shapes(content["shapes"], operations)
        content = {**content, "operations": operations, "shapes": shapes}
    if "partitions" in content:
        partitions = [{**each, "services": _only_ours(each["services"])} for each in content["partitions"]]
        content = {**content, "partitions": partitions}
    return content


def _only_ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: endpoints for name, endpoints in services.items() if name == _SERVICE}


def _shapes(shapes: dict[str, Any], operations: dict[str, Any]) -> dict[str, Any]:
    """Those that the operations name, and those that these name in turn."""
    found: dict[str, Any] = {}
    waiting = [*_named(operations)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = shapes[name]
            waiting += _named(shapes[name])
    return found


def _named(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if isinstance(content.get("shape"), str):
            yield content["shape"]
        for each in content.values():
            yield from _named(each)
    elif isinstance(content, list):
        for each in content:
            yield from _named(each)


def _is_large(path: str) -> bool:
    return os.path.basename(path).startswith(("endpoints.json", "service-2.json"))


def _cut_elsewhere(path: str) -> bytes | str:
    """As JSON. Where no process can be started, we do it, and keep the memory."""
    from streaming.processes.launch import interpreter  # not in the program

    # -B: below a file size limit a module's bytecode would be written in part, and break every later start.
    options = ["-B", "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2]), path]
    try:
        command = [interpreter(), *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=True)
        return done.stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return json.dumps(cut(_content(path)))


def _file(file_path: str) -> str | None:
    return next((path for ending in (".json", ".json.gz") if os.path.isfile(path := file_path + ending)), None)


def _content(path: str) -> Any:
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        return json.load(file)
