"""The wrapped command: started untouched, its signals as many as without us, its exit code as a shell would give it."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streaming.collect.procfs import highest_memory_kib_of
from streaming.record.witness import Witness

NOT_FOUND = 127
NOT_EXECUTABLE = 126
STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_FORWARDED = STOPPING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH, signal.SIGXCPU}
_SI_KERNEL = 0x80  # siginfo's si_code: most likely the terminal sent it, to the whole foreground group


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


@dataclass(frozen=True)
class Ended:
    """How the command ended. `usage` is the kernel's sum over it and all the children that were waited for (wait4)."""

    exit_code: int  # 128 + n for signal n
    at: float  # s since the epoch
    usage: Any = None  # resource.struct_rusage


class Command:
    """A running command. Its stdin, stdout, stderr, environment, directory, group and signal mask are the caller's own.

    Signals that reach us alone are passed on; those that reach the command anyway are not. To be waited for by one thread,
    started before any other: the signals are blocked from here on.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Start it. Raises CannotStart."""
        self.started_at = time.time()
        self.peaks_above_kib = highest_memory_kib_of(os.getpid())  # a smaller peak of the command is hidden by ours
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
        # Inherited as ignored, the kernel would reap the command, and its exit code be lost.
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._has_siginfo = hasattr(signal, "sigwaitinfo")  # macOS has none
        self._witness = Witness(_FORWARDED) if self._has_siginfo else None
        try:
            # Python ignores SIGPIPE and SIGXFSZ; the command must not.
            self.pid = os.posix_spawnp(
                words[0],
                list(words),
                os.environ,
                setsigmask=list(self._mask),
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            self._stop_listening()
            raise CannotStart.of(words[0], error) from error

    def wait(self) -> Ended:
        """Until it ends. Meanwhile signals are passed on."""
        while (ended := self._reap()) is None:
            received = self._next_signal(_FORWARDED | {signal.SIGCHLD})
            if received in _FORWARDED:
                os.kill(self.pid, received)
        return ended

    def _reap(self) -> Ended | None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        if self._witness is not None:
            self._witness.close()
            self._witness = None
        return Ended(_shell_code(os.waitstatus_to_exitcode(status)), time.time(), usage)

    def _next_signal(self, awaited: frozenset[int]) -> int | None:
        """Wait for one that is meant for us alone; None if it was not."""
        if not self._has_siginfo:
            return signal.sigwait(awaited)
        # Not sigtimedwait: when the process was suspended past the deadline, Python gives a number that never came.
        received = signal.sigwaitinfo(awaited)
        number = received.si_signo
        is_passed_on = number == signal.SIGCHLD or not self._reaches_command(received)
        return number if is_passed_on else None

    def _reaches_command(self, received: Any) -> bool:
        if self._witness is None or self._witness.is_blind:
            return bool(received.si_code == _SI_KERNEL)
        return self._witness.saw(received.si_signo, sender=received.si_pid, command_pid=self.pid)

    def _stop_listening(self) -> None:
        if self._witness is not None:
            self._witness.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def wait_for_stop(timeout_s: float) -> int | None:
    """After the command's end: a signal that asks us to stop. None when a thread says SIGCHLD to us, or the time is over."""
    signal.setitimer(signal.ITIMER_REAL, max(timeout_s, 0.001))
    received = signal.sigwait(STOPPING | {signal.SIGCHLD, signal.SIGALRM})
    return received if received in STOPPING else None


def _shell_code(return_code: int) -> int:
    return 128 - return_code if return_code < 0 else return_code
