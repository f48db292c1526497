"""Measured code runs in fresh interpreters: one function per child, its order and its answers as JSON lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any


class Child:
    """A running function. `hear` its answers, `tell` it to go on; what still runs at the end of `with` is killed."""

    def __init__(self, function: Callable[..., Any], environment: Mapping[str, str], **order: Any) -> None:
        name = f"{function.__module__}:{function.__qualname__}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )
        self.pid = self._process.pid
        self.tell(order)

    def tell(self, word: Any = None) -> None:
        """Send one JSON line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(word).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, timeout_s: float | None = None) -> Any:
        """Its next answer; None after `timeout_s` seconds. Raises RuntimeError if it ended without one (see its stderr)."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            return None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the measured child ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()


def call(function: Callable[..., Any], environment: Mapping[str, str], **order: Any) -> Any:
    """What `function(**order)` says in a fresh interpreter."""
    with Child(function, environment, **order) as child:
        return child.hear()


def say(answer: Any) -> None:
    """In the child: answer."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def listen() -> Any:
    """In the child: wait for the next word. Ends the child when there is nobody any more."""
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    return json.loads(line)


def main() -> None:
    """Run the function of the first argument with the order on stdin; what it returns is its last answer."""
    module, _, name = sys.argv[1].partition(":")
    order = listen()
    answer = getattr(import_module(module), name)(**order)
    if answer is not None:
        say(answer)


if __name__ == "__main__":
    main()
