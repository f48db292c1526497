"""A network namespace of a test's own: no way out at all, or one that swallows every packet."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.support.processes import Program, start_program

SWALLOWED = "192.0.2.77"  # below, a route to it exists and nothing ever answers
# The neighbour is entered by hand, so that not even the question for its address fails: the SYN leaves, and is dropped.
_SWALLOWING = (
    "ip link add near type veth peer name far && ip link set far up && ip link set near up && "
    f"ip addr add 192.0.2.1/24 dev near && ip neigh add {SWALLOWED} lladdr 02:00:00:00:00:01 dev near nud permanent && "
)
_LOOPBACK = "ip link set lo up && "


@cache
def _cannot() -> str:
    """Why no such namespace can be made here, or nothing."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "no unshare or ip command (packages util-linux, iproute2)"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", _LOOPBACK + _SWALLOWING + "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"no network namespace may be made here ({tried.stderr.decode().strip()})"


def start_inside(
    command: list[str | Path], environment: Mapping[str, str], *, swallows: bool, stdin: bool = False
) -> Program:
    """Start a command in a new namespace: with loopback only, or with a route into a hole besides. Skips if it cannot."""
    if _cannot():
        pytest.skip(_cannot())
    prepare = _LOOPBACK + (_SWALLOWING if swallows else "")
    inside = ["unshare", "-n", "sh", "-c", f'{prepare} exec "$@"', "sh"]
    return start_program([*inside, *command], {"PATH": os.environ["PATH"], **environment}, stdin=stdin)
