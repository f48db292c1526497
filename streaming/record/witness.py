"""Whether a signal that reached us has reached the command as well.

Launchers and schedulers signal one process, a process group, every process of a tree, or every process of a control
group. The kernel tells who sent a signal, not to whom else. So beside the command stands a process of ours that does
nothing at all, where the command stands: a child of ours, in the same process group and control group. What is sent to the
group, the tree or to everything reaches it, too; what is meant for us alone does not. Our signals are blocked in it (a
mask survives exec), so each that comes stays pending, for us to read.

Absence is only certain once the sender has finished: it is waited for until the sender sleeps, has ended, or has computed
for `BUSY_S` since (its own time: a busy machine may keep it from the next process for long), `LONGEST_S` at most, and
`UNSEEN_S` where it cannot be seen (another pid namespace). Limits: a command that has left our group is taken not to be
reached by the first signal after that; a second signal of the same kind and sender that comes before another witness stands,
a millisecond later, is taken to have come the same way as the first.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAM = "wc"  # reads until we are gone; nobody would think of killing it by its name
BUSY_S = 0.3
LONGEST_S = 3.0
UNSEEN_S = 0.1
POLL_S = 0.005


class Witness:
    """Belongs to the process that made it; its signals are blocked there, too. `is_blind` without `PROGRAM`."""

    def __init__(self, signals: Iterable[int]) -> None:
        self._signals = frozenset(signals)
        self._has_own_group = False
        self._seen: dict[
            int, int | None
        ] = {}  # by the former witness, and not asked for yet: from whom, if that matters
        self._stand_read, self._stand_write = os.pipe()
        self._pid = self._start()

    @property
    def is_blind(self) -> bool:
        return self._pid == 0

    def saw(self, number: int, *, sender: int, command_pid: int) -> bool:
        """Whether the signal that we have received from `sender` was sent to the command, too."""
        has_moved = self._has_own_group != _has_left_our_group(command_pid)
        if has_moved or self._has_died():
            self._has_own_group ^= has_moved
            self._replace(number, sender)
            return False
        asked_at, used_s = time.monotonic(), _cpu_s(sender)
        while True:  # the sender is asked before the look that settles it
            may_come = _is_at_work(sender, time.monotonic() - asked_at, _cpu_s(sender) - used_s)
            if self._seen.pop(number, -1) in (sender, None) or number in _pending(self._pid):
                self._replace(number, sender)
                return True
            if not may_come:
                return False
            time.sleep(POLL_S)

    def close(self) -> None:
        """It ends, now (and by itself when we are gone: its input ends)."""
        self._end(self._pid)
        os.close(self._stand_read)
        os.close(self._stand_write)

    def _start(self) -> int:
        own_group: dict[str, Any] = {"setpgroup": 0} if self._has_own_group else {}
        with suppress(OSError):
            return os.posix_spawnp(
                PROGRAM,
                [PROGRAM],
                {},  # nothing of the user's is preloaded into it
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, self._stand_read, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsigmask=self._signals,
                **own_group,
            )
        return 0

    def _replace(self, asked_for: int, sender: int) -> None:
        """A pending signal cannot be taken back: another witness stands before this one goes, and nothing falls between.

        What came a second time meanwhile, from the same sender, is taken to have come the same way.
        """
        former, self._pid = self._pid, self._start()
        left = _pending(former) - _pending(self._pid) - {asked_for}
        self._seen = dict.fromkeys((self._seen.keys() | left) & self._signals)
        if asked_for in signal.sigpending():
            self._seen[asked_for] = sender
        self._end(former)

    def _has_died(self) -> bool:
        """Whether somebody has killed it."""
        with suppress(ChildProcessError):
            return bool(self._pid) and os.waitpid(self._pid, os.WNOHANG) != (0, 0)
        return True

    @staticmethod
    def _end(pid: int) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _has_left_our_group(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) != os.getpgrp()
    return False


def _pending(pid: int) -> set[int]:
    """The signals that have come to a process and wait, which is for ever where they are blocked."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"ShdPnd:"):
                mask = int(line.split()[1], 16)
                return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return set()


def _is_at_work(sender: int, waited_s: float, used_s: float) -> bool:
    """Whether the sender may be about to signal others, so many seconds, and so many of its own, after it signalled us.
    0: the kernel, or nobody that we see."""
    if sender == 0:
        return waited_s < UNSEEN_S
    return waited_s < LONGEST_S and used_s < BUSY_S and any(state in b"RD" for state in _states(sender))


def _states(pid: int) -> list[bytes]:
    """The state of each thread; none once the process has ended."""
    states = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                stat = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes()
                states.append(stat[stat.rindex(b")") + 2 :][:1])
    return states


def _cpu_s(pid: int) -> float:
    """Of all its threads; 0 once it has ended."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        user, system = stat[stat.rindex(b")") + 2 :].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0
