"""Fault 15: a file system without working locks is found by a probe at the start, and said in words."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.far_end import FarEnd
from tests.support.processes import Home, clean_environment

# Every lock, of either kind, fails with the error given in the environment.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char *what) {
    const char *error = getenv(what);
    if (!error) return 0;
    errno = atoi(error);
    return 1;
}

static int is_lock(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}

#define FORWARD(name) \
    int name(int descriptor, int command, ...) { \
        va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list); \
        if (is_lock(command) && fails("SHIM_FCNTL")) return -1; \
        int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, #name); \
        return real(descriptor, command, argument); \
    }
FORWARD(fcntl)
FORWARD(fcntl64)

int flock(int descriptor, int operation) {
    if (fails("SHIM_FLOCK")) return -1;
    int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return real(descriptor, operation);
}
"""
ERRORS = {"ENOSYS": 38, "ENOLCK": 37, "EIO": 5, "ESTALE": 116}
PROGRAM = """
import sys, time, streaming
manager = streaming.StreamingManager("token", host_info={}, cloud_info={})
try:
    manager.start()
except Exception as error:
    print(type(error).__name__, error)
print(manager.stop())
sys.exit(7)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed (scripts/test installs it when run as root)")
    place = tmp_path_factory.mktemp("shim")
    (place / "shim.c").write_text(SHIM)
    made = place / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, place / "shim.c", "-ldl"], check=True)
    return made


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("lock", ["SHIM_FCNTL", "SHIM_FLOCK"])
def test_fault_15_missing_locks_are_found_at_the_start_and_said_in_words(
    shim: Path, home: Home, marker: str, lock: str, error: str
) -> None:
    environment = clean_environment(home, marker, LD_PRELOAD=str(shim), **{lock: str(ERRORS[error])})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=home.path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 7, done.stderr
    kind, _, message = done.stdout.partition(" ")
    assert kind == "LocksDoNotWork", done.stdout
    assert f"the file system of {home.spool_dir} has no working file locks" in message
    assert "TRACKER_STREAM_DIR" in message
    assert "on a local disk" in message
    assert "database is locked" not in done.stdout + done.stderr
    assert list(home.spool_dir.iterdir()) == [], "no spool, no scratch file"


def test_fault_15_command_runs_untracked_where_there_are_no_locks(
    shim: Path, far_end: FarEnd, home: Home, marker: str
) -> None:
    environment = clean_environment(home, marker, LD_PRELOAD=str(shim), SHIM_FCNTL="37", **far_end.environment())
    words = [sys.executable, "-m", "streaming", "run", "--", "sh", "-c", "exit 3"]
    done = subprocess.run(words, env=environment, cwd=home.path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "NOT recorded" in done.stderr
    assert "no working file locks" in done.stderr
    assert far_end.journal.count() == 0
