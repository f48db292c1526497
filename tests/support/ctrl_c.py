"""A program on a terminal of its own, where Ctrl-C reaches every process of the foreground group, as at a keyboard."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass
class TerminalProgram:
    """`press_ctrl_c` types it; what the program writes comes back in `screen`."""

    popen: "subprocess.Popen[bytes]"
    master: int
    screen: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(cls, command: Sequence[str | Path], environment: Mapping[str, str]) -> "TerminalProgram":
        master, slave = os.openpty()
        popen = subprocess.Popen(
            [sys.executable, "-S", "-c", _TAKE_TERMINAL, *map(str, command)],
            env=dict(environment),
            cwd=environment["HOME"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(master, False)
        return cls(popen, master)

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def wait_for(self, word: bytes, deadline_s: float = 60.0) -> None:
        """Until the screen shows `word`."""
        until = time.monotonic() + deadline_s
        while word not in self.screen:
            self._read()
            if time.monotonic() > until:
                raise AssertionError(f"{word!r} did not appear on the screen: {bytes(self.screen)!r}")
            time.sleep(0.02)

    def wait(self, deadline_s: float = 60.0) -> int:
        """Its exit code, negative for a signal."""
        until = time.monotonic() + deadline_s
        while self.popen.poll() is None:
            self._read()
            if time.monotonic() > until:
                raise AssertionError(f"it did not end; the screen shows {bytes(self.screen)!r}")
            time.sleep(0.02)
        self._read()
        return self.popen.returncode

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 65536):
                self.screen += part
        except OSError:  # nothing there now, or nobody has the other side open any more
            return

    def __enter__(self) -> "TerminalProgram":
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(60)
        os.close(self.master)
