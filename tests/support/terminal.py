"""A pseudo-terminal of 80 columns with a program in it: what it writes, keys pressed in it, and the screen it leaves.

    with Terminal.start(["tracker-stream", "status", "--watch"], environment) as terminal:
        terminal.wait_for("waiting")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130

`screen()` interprets the few control sequences that a redrawing program needs; an unknown one fails the test.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CTRL_C = b"\x03"
CONTROL_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
READ_BYTES = 65536


class Terminal:
    """The master's side. The program has the slave as its controlling terminal, so Ctrl-C reaches its whole group."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int, columns: int) -> None:
        self.process = process
        self.columns = columns
        self._master = master
        self._written = bytearray()

    @classmethod
    def start(
        cls,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        *,
        columns: int = 80,
        lines: int = 24,
        term: str = "xterm-256color",
        stdout: int | None = None,
    ) -> "Terminal":
        """`stdout`: a descriptor to use instead of the terminal."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        process = subprocess.Popen(
            [str(word) for word in command],
            env={"LANG": "C.UTF-8", **environment, "TERM": term},
            cwd=environment["HOME"],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        return cls(process, master, columns)

    @property
    def written(self) -> str:
        """Everything so far, control sequences included."""
        return self._written.decode("utf-8", "replace")

    def _read(self, seconds: float) -> bool:
        """Take what is there within so many seconds. False at the end."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._master, READ_BYTES)
        except OSError:  # EIO: nobody has the slave open any more
            return False
        self._written += piece
        return bool(piece)

    def wait_for(self, text: str, deadline_s: float = 60.0) -> None:
        """Until the program has written this."""
        until = time.monotonic() + deadline_s
        while text not in self.written:
            if not self._read(0.05) and text not in self.written:
                raise AssertionError(f"the program ended without {text!r}; it wrote:\n{self.written}")
            if time.monotonic() > until:
                raise AssertionError(f"no {text!r} within {deadline_s} s; it wrote:\n{self.written}")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def wait(self, deadline_s: float = 60.0) -> int:
        """Its exit code (negative: the signal), with everything read that it wrote."""
        until = time.monotonic() + deadline_s
        while self.process.poll() is None:
            if time.monotonic() > until:
                raise AssertionError(f"it did not end within {deadline_s} s; it wrote:\n{self.written}")
            self._read(0.05)
        while self._read(0.0) and select.select([self._master], [], [], 0)[0]:
            pass
        return self.process.returncode

    def screen(self) -> list[str]:
        """The lines that a person sees at the end, as far as they were not scrolled away (this one never scrolls)."""
        return render(self.written, self.columns)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
        os.close(self._master)


def render(written: str, columns: int) -> list[str]:
    """The picture that a text with control sequences leaves on a terminal that is high enough."""
    rows: list[list[str]] = [[]]
    row = column = position = 0
    while position < len(written):
        found = CONTROL_SEQUENCE.match(written, position)
        if found:
            row, column = _obey(found[1], found[2], rows, row, column)
            position = found.end()
            continue
        character = written[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character < " ":
            raise AssertionError(
                f"control character {character!r} in {written[max(0, position - 40) : position + 20]!r}"
            )
        else:
            if column >= columns:
                row, column = row + 1, 0
            _put(rows, row, column, character)
            column += 1
        while len(rows) <= row:
            rows.append([])
    return ["".join(line).rstrip() for line in rows]


def _obey(numbers: str, letter: str, rows: list[list[str]], row: int, column: int) -> tuple[int, int]:
    amount = int(numbers) if numbers.isdigit() else 1
    if letter == "m" or (letter in "hl" and numbers == "?25"):
        return row, column
    if letter == "A":
        return max(0, row - amount), column
    if letter == "K" and numbers == "2":
        while len(rows) <= row:
            rows.append([])
        rows[row] = []
        return row, column
    raise AssertionError(f"unexpected control sequence ESC[{numbers}{letter}")


def _put(rows: list[list[str]], row: int, column: int, character: str) -> None:
    while len(rows) <= row:
        rows.append([])
    line = rows[row]
    line += [" "] * (column + 1 - len(line))
    line[column] = character
