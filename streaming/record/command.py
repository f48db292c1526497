"""The wrapped command: started untouched, its signals forwarded, its exit code as a shell would give it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH")
_SI_KERNEL = 0x80  # siginfo's si_code: the terminal sent it, to the whole foreground group, the command included


class CannotStart(Exception):
    """The command cannot be started; `exit_code` is 126 or 127 as shells have it."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason

    @classmethod
    def of(cls, name: str, error: OSError) -> CannotStart:
        """What it means that `name` cannot be executed."""
        if error.errno == errno.ENOENT:
            return cls(NOT_FOUND, f"{name}: command not found")
        return cls(NOT_EXECUTABLE, f"{name}: {os.strerror(error.errno or 0)}")


class Command:
    """A running command. Its stdin, stdout, stderr, environment, directory, group and signal mask are the caller's own.

    Signals that reach us are passed on; those that a terminal sent to the whole group are not sent twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Start it. Raises CannotStart."""
        self._has_siginfo = hasattr(signal, "sigtimedwait") and hasattr(os, "posix_spawnp")
        self._awaited = {getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)}
        try:
            self.pid = self._spawn(list(words)) if self._has_siginfo else self._spawn_portably(list(words))
        except OSError as error:
            self._restore_mask()
            raise CannotStart.of(words[0], error) from error

    def _spawn(self, words: list[str]) -> int:
        """With our signals blocked before, so that none is lost, and the mask as it was for the command.

        Python ignores SIGPIPE and SIGXFSZ; the command must not.
        """
        self._awaited.add(signal.SIGCHLD)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)
        # Inherited as ignored, the kernel would reap the command, and its exit code be lost.
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return os.posix_spawnp(
            words[0], words, os.environ, setsigmask=list(self._mask), setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )

    def _spawn_portably(self, words: list[str]) -> int:
        self._process = subprocess.Popen(words)
        for number in self._awaited - {getattr(signal, "SIGCHLD", None)}:
            signal.signal(number, lambda received, _frame: self._process.send_signal(received))
        return self._process.pid

    def wait(self, timeout_s: float) -> int | None:
        """The exit code once the command has ended (128 + n for signal n), None after `timeout_s` seconds."""
        if not self._has_siginfo:
            return self._wait_portably(timeout_s)
        give_up_at = time.monotonic() + timeout_s
        while True:
            exit_code = self._reap()
            left_s = give_up_at - time.monotonic()
            if exit_code is not None or left_s <= 0:
                return exit_code
            received = signal.sigtimedwait(self._awaited, left_s)
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._forward(received)

    def _reap(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else _shell_code(os.waitstatus_to_exitcode(status))

    def _forward(self, received: Any) -> None:
        if received.si_code != _SI_KERNEL:
            os.kill(self.pid, received.si_signo)

    def _wait_portably(self, timeout_s: float) -> int | None:
        try:
            return _shell_code(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def was_asked_to_stop(self) -> bool:
        """Whether a signal to stop has come since the command ended (no wait)."""
        if not self._has_siginfo:
            return False
        stopping = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
        return signal.sigtimedwait(stopping, 0) is not None

    def _restore_mask(self) -> None:
        if self._has_siginfo:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _shell_code(return_code: int) -> int:
    return 128 - return_code if return_code < 0 else return_code
