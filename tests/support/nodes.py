"""Nodes of a cluster that share their directories: programs in UTS namespaces, each with a host name of its own.

To the product a process elsewhere is one on another host; that all of them see the same files is what nodes with a
shared home have in common.
"""

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.support.processes import Program, start_program


@cache
def _cannot() -> str:
    """Why there can be no such nodes here, or nothing."""
    if shutil.which("unshare") is None:
        return "unshare is not installed (scripts/test installs it when run as root)"
    tried = subprocess.run(["unshare", "--uts", "hostname", "n1"], capture_output=True)
    return "" if tried.returncode == 0 else f"no UTS namespace may be made here ({tried.stderr.decode().strip()})"


def start_on_node(
    name: str, command: list[str | Path], environment: Mapping[str, str], *, stdin: bool = False
) -> Program:
    """Start a command on the node `name`. Skips the test where there can be no nodes."""
    if _cannot():
        pytest.skip(_cannot())
    inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name]
    return start_program([*inside, *command], environment, stdin=stdin)
