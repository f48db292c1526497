"""Children that are ready at once: a single-threaded process with everything imported that forks one per order.

    with Nursery.open(environment) as nursery:
        end = nursery.run(order("deliver", spool, far_end, kill_at=("upload:replied", 1)))
        assert end.was_killed

What a child does is a play of `tests.support.plays`. It is a process of its own, so it may be killed for real.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

ANY_STEP = "*"


@dataclass(frozen=True)
class End:
    """How a child ended: its exit code, negative for a signal, and the steps that it passed."""

    exit_code: int
    steps: tuple[str, ...]

    @property
    def was_killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL

    def require_success(self) -> "End":
        assert self.exit_code == 0, f"the child ended with {self.exit_code} after {self.steps}"
        return self


class Nursery:
    """Forks a child for each order. Children that wait for `go` can be looked at (strace) before they begin."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen

    @classmethod
    def open(cls, environment: Mapping[str, str]) -> "Nursery":
        popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery"],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return cls(popen)

    def run(self, order: Mapping[str, Any]) -> End:
        """Fork a child and wait for its end."""
        self.prepare(order)
        return self.go()

    def prepare(self, order: Mapping[str, Any]) -> int:
        """Fork a child that waits; its pid. `go` must follow."""
        self._say(json.dumps(dict(order)))
        return int(self._hear())

    def go(self) -> End:
        self._say("go")
        heard = json.loads(self._hear())
        return End(heard["exit_code"], tuple(heard["steps"]))

    def close(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.wait(60)
        self._popen.stdout.close()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def _hear(self) -> str:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise RuntimeError(f"the nursery ended with {self._popen.wait()}")
        return line.decode()


# -- in the nursery's own process --------------------------------------------------------------------------------------


def main() -> None:
    from tests.support import plays

    plays.warm_up()
    for line in sys.stdin.buffer:
        _raise_child(json.loads(line))


def _raise_child(order: dict[str, Any]) -> None:
    """Fork it, tell its pid, pass on `go`, tell its end and the steps that it wrote down on the way."""
    go_read, go_write = os.pipe()
    steps_read, steps_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.close(steps_read)
        _live(order, go_read, steps_write)
    os.close(go_read)
    os.close(steps_write)
    print(pid, flush=True)
    sys.stdin.buffer.readline()
    os.write(go_write, b"!")
    os.close(go_write)
    steps = _read_all(steps_read)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"exit_code": os.waitstatus_to_exitcode(status), "steps": steps.split("\n")[:-1]}), flush=True)


def _live(order: dict[str, Any], go: int, steps: int) -> None:
    from tests.support import plays

    code = 1
    try:
        os.read(go, 1)
        plays.perform(order, Killer(order.get("kill_at"), steps))
        code = 0
    except BaseException:  # noqa: BLE001 - a forked copy must end here, and say why
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Killer:
    """An observer of steps that writes each down, and kills the process after the n-th of one name, or of all."""

    def __init__(self, kill_at: tuple[str, int] | None, steps: int) -> None:
        self._name, self._left = kill_at or ("", 0)
        self._steps = steps

    def __call__(self, name: str) -> None:
        os.write(self._steps, name.encode() + b"\n")
        if self._name in (name, ANY_STEP):
            self._left -= 1
            if self._left <= 0:  # several threads may be at it
                os.kill(os.getpid(), signal.SIGKILL)


def _read_all(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read().decode()


def occurrences(steps: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every step of a complete run as (name, which one of that name): the kill points of a sweep."""
    return [(name, steps[: number + 1].count(name)) for number, name in enumerate(steps)]


def order(play: str, spool: Path, *, kill_at: tuple[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """What a child is to do to the spool (or, for plays that create one, in the directory) at `spool`."""
    return {"play": play, "spool": str(spool), "kill_at": kill_at, **more}


if __name__ == "__main__":
    main()
