"""Signals as launchers and schedulers send them, each from a process of its own; and a program that counts what it gets."""

import signal
import subprocess
import sys

COUNTING = """
import os, signal, sys, time
seen = set()

def note(number, _frame):
    seen.add(number)
    os.write(1, signal.Signals(number).name.encode() + b"\\n")

for name in ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT", "SIGHUP"):
    signal.signal(getattr(signal, name), note)
if sys.argv[1] == "leave":
    os.setpgid(0, 0)
os.write(1, b"ready\\n")
if sys.argv[1] == "until SIGUSR2":
    while signal.SIGUSR2 not in seen:
        time.sleep(0.01)
else:
    sys.stdin.readline()
os.write(1, b"ended\\n")
"""

_SENDING = '''
import os, subprocess, sys, tempfile, time
how, root, *numbers = sys.argv[1], *map(int, sys.argv[2:])

def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]

def tree(pid):
    return [pid, *(each for child in children(pid) for each in tree(child))]

def everything(pid):  # as a control group lists it: by number
    return sorted(tree(pid))

def leaves_first(pid):
    return tree(pid)[::-1]

def get_no_cpu(seconds):
    """Wait as one does who gets none: neither asleep nor stopped (state D, until the child has opened the pipe)."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(pipe := folder + "/pipe")
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; : >{pipe}"])
        os.posix_spawnp("true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 9, pipe, os.O_RDONLY, 0)])

for number in numbers:
    if how == "process":
        os.kill(root, number)
    elif how == "group":
        os.killpg(root, number)
    else:
        chosen = {"leaves first": leaves_first, "everything": everything}.get(how, tree)(root)
        for pid in chosen:
            os.kill(pid, number)
            if how == "slow tree":
                until = time.monotonic() + 0.05
                while time.monotonic() < until:
                    pass
            elif how == "starved tree" and pid == root:
                get_no_cpu(1)
'''

SENDERS = ("process", "group", "tree", "leaves first", "everything")


def send(how: str, pid: int, *numbers: signal.Signals) -> None:
    """Send the signals to the process `pid`, to its group, or to it and all its descendants one by one."""
    subprocess.run([sys.executable, "-S", "-c", _SENDING, how, str(pid), *(str(int(n)) for n in numbers)], check=True)
