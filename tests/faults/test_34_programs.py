"""Fault 34: programs of every kind. No deadlock, no second run of the user's code, and a forked copy is not the run."""

import signal
import sys
import tempfile
from pathlib import Path
from textwrap import indent

import pytest

from tests.support import oracle, programs
from tests.support.far_end import FarEnd
from tests.support.processes import Home, ProgramResult, start_program, start_script, wait_gone
from tests.support.programs import surroundings, told

pytestmark = pytest.mark.usefixtures("no_secret_on_disk")

START = (
    programs.PREAMBLE
    + """
say("begun")
manager = new_manager(start_method=os.environ.get("METHOD", "spawn"))
manager.start()
append(manager, 0, 5)
"""
)

# What follows the start, how the program ends, and what the run is to end with.
ENDINGS = {
    "stop": ("manager.stop()", 0, "finished", 0),
    "no stop": ("pass", 0, "finished", None),
    "sys.exit": ("sys.exit(3)", 3, "finished", None),
    "uncaught exception": ("raise RuntimeError('the job fails')", 1, "failed", 1),
    "os._exit": ("os._exit(4)", 4, "failed", None),
    "killed": ("os.kill(os.getpid(), 9)", -signal.SIGKILL, "failed", None),
    "twenty threads": (
        """
import threading
def work(lock=threading.Lock()):
    for _ in range(50):
        with lock:
            time.sleep(0.001)
threads = [threading.Thread(target=work) for _ in range(20)]
for thread in threads: thread.start()
append(manager, 5, 10)
for thread in threads: thread.join()
manager.stop()
""",
        0,
        "finished",
        0,
    ),
    "thread that goes on": (
        """
import threading
threading.Thread(target=lambda: (time.sleep(0.5), append(manager, 5, 6))).start()
""",
        0,
        "finished",
        None,
    ),
}

# Helpers forked after the start: whatever they do to their copy and however they end, the run is the parent's alone.
HELPERS = {
    "exit": "sys.exit(5)",
    "exception": "raise RuntimeError('the helper fails')",
    "os._exit": "os._exit(6)",
    "stop": "manager.stop(9, 'failed'); os._exit(0)",
    "collection": "del manager; import gc; gc.collect(); sys.exit(0)",
    "append": """
try:
    manager.append(b"timestamp,x\\n666,not of this run\\n")
except ValueError:
    os._exit(0)
os._exit(1)
""",
    "questions": "say(manager.run_id, manager.is_alive, manager.uploaded_uris); os._exit(0)",
}
FORKED = """
pid = os.fork()
if pid == 0:
{helper}
os.waitpid(pid, 0)
append(manager, {number}, {number} + 1)
"""


def run(script: str, environment: dict[str, str]) -> ProgramResult:
    with start_script(script, environment) as program:
        return program.wait()


@pytest.mark.parametrize("ending", ENDINGS)
def test_fault_34_program_ends_as_without_us_and_its_run_is_finished(
    home: Home, marker: str, far_end: FarEnd, ending: str
) -> None:
    rest, exit_code, run_status, run_exit_code = ENDINGS[ending]
    result = run(START + rest, surroundings(home, marker, far_end))
    result.check_unfelt(exit_code=exit_code, traceback_count=int(ending == "uncaught exception"))
    finished_as(far_end, marker, result, run_status=run_status, exit_code=run_exit_code)


def finished_as(far_end: FarEnd, marker: str, result: ProgramResult, *, run_status: str, exit_code: object) -> None:
    far_end.wait_finished()
    wait_gone(marker)
    assert result.stdout.count(b"begun") == 1, "the user's code ran again"
    appended = result.stdout.count(b"appended")
    oracle.judge(far_end.evidence(), told(appended), run_status=run_status, exit_code=exit_code)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_fault_34_forked_helper_neither_ends_nor_feeds_its_parents_run(
    home: Home, marker: str, far_end: FarEnd, method: str
) -> None:
    """One after the other, and a row of the program's after each."""
    forked = [
        FORKED.format(helper=indent(helper.strip(), "    "), number=number)
        for number, helper in enumerate(HELPERS.values(), start=5)
    ]
    result = run(START + "".join(forked) + "manager.stop()\n", surroundings(home, marker, far_end, METHOD=method))
    result.check_unfelt(traceback_count=1)  # of the helper that fails
    assert result.stdout.count(b"appended") == 5 + len(HELPERS)
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


OUTLIVED = """
if os.fork() == 0:
    say("ready")
    sys.stdin.readline()
    os._exit(0)
{ending}
"""


@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), 9)", "manager.stop(); os._exit(0)"], ids=["killed", "stopped"]
)
def test_fault_34_helper_that_outlives_the_program_does_not_keep_its_run_open(
    home: Home, marker: str, far_end: FarEnd, ending: str
) -> None:
    environment = surroundings(home, marker, far_end)
    with start_script(START + OUTLIVED.format(ending=ending), environment, stdin=True) as program:
        programs.read_until(program, "ready")
        status = far_end.wait_finished().finish
        program.say("leave")
        program.wait()
    wait_gone(marker)
    assert status is not None
    oracle.judge(far_end.evidence(), told(5), run_status="failed" if "kill" in ending else "finished")


FORKED_AMID_APPENDS = (
    programs.PREAMBLE
    + """
import threading
say("begun")
manager = new_manager()
manager.start()
done = threading.Event()

def work():
    number = 0
    while not done.is_set():
        manager.append(b"timestamp,x\\n" + row(number))
        os.write(1, b"appended %d\\n" % number)
        number += 1

thread = threading.Thread(target=work)
thread.start()
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
done.set()
thread.join()
manager.stop()
"""
)


def test_fault_34_helpers_forked_in_the_middle_of_appends_end_without_touching_the_spool(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    """A copied connection that is closed amid its parent's transaction would roll that back, on disk."""
    result = run(FORKED_AMID_APPENDS, surroundings(home, marker, far_end)).check_unfelt()
    assert result.stdout.count(b"appended") > 40
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


MULTIPROCESSING = """
import multiprocessing

def work(number):
    return number * number

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    manager = new_manager()
    manager.start()
    say("begun")
    append(manager, 0, 5)
    with context.Pool(2) as pool:
        assert pool.map(work, range(10)) == [number * number for number in range(10)]
    process = context.Process(target=work, args=(3,))
    process.start()
    process.join()
    assert process.exitcode == 0
    append(manager, 5, 8)
    manager.stop()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_fault_34_multiprocessing_children_leave_their_parents_run_alone(
    home: Home, marker: str, far_end: FarEnd, method: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fault-34-") as short:  # the path of a socket has a limit
        environment = surroundings(home, marker, far_end) | {"TMPDIR": short}
        result = run(programs.PREAMBLE + MULTIPROCESSING.format(method=method), environment)
    finished_as(far_end, marker, result.check_unfelt(), run_status="finished", exit_code=0)


IN_POOL = """
import multiprocessing

def job(_):
    say("begun")
    manager = new_manager()
    manager.start()
    append(manager, 0, 5)
    return manager.stop()

if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        (answer,) = pool.map(job, [None])
    assert answer, "not delivered"
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_fault_34_daemonic_pool_worker_records_a_run_of_its_own(
    home: Home, marker: str, far_end: FarEnd, method: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fault-34-") as short:  # the path of a socket has a limit
        environment = surroundings(home, marker, far_end) | {"TMPDIR": short}
        result = run(programs.PREAMBLE + IN_POOL.format(method=method), environment)
    finished_as(far_end, marker, result.check_unfelt(), run_status="finished", exit_code=0)


def test_fault_34_program_given_by_dash_c_is_delivered(home: Home, marker: str, far_end: FarEnd) -> None:
    script = START + "manager.stop()"
    with start_program([sys.executable, "-c", script], surroundings(home, marker, far_end)) as program:
        result = program.wait().check_unfelt()
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


def test_fault_34_program_read_from_stdin_is_delivered(home: Home, marker: str, far_end: FarEnd) -> None:
    script = START + "manager.stop()"
    with start_program([sys.executable, "-"], surroundings(home, marker, far_end), stdin=True) as program:
        program.say(script)
        result = program.wait().check_unfelt()
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


def test_fault_34_interactive_interpreter_is_delivered(home: Home, marker: str, far_end: FarEnd) -> None:
    """As in a notebook or at the prompt: statements come one by one, and there is no __main__ file."""
    lines = START.replace("\n    ", "\n    ").strip().split("\n\n")
    with start_program([sys.executable, "-i", "-q"], surroundings(home, marker, far_end), stdin=True) as program:
        for part in [*lines, "manager.stop()", "exit()"]:
            program.say(part + "\n")
        result = program.wait()
    assert result.exit_code == 0
    assert b"Traceback" not in result.stderr
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


def test_fault_34_cells_of_a_kernel_are_delivered(home: Home, marker: str, far_end: FarEnd) -> None:
    """Compiled and executed one by one, in a `__main__` that no file holds; argv is a kernel's."""
    cells = [START, "manager.stop()"]
    script = f"""
import sys, types
sys.argv = ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"]
main = sys.modules["__main__"] = types.ModuleType("__main__")
for number, cell in enumerate({cells!r}):
    exec(compile(cell, f"<ipython-input-{{number}}>", "exec"), main.__dict__)
"""
    with start_program([sys.executable, "-c", script], surroundings(home, marker, far_end)) as program:
        result = program.wait().check_unfelt()
    finished_as(far_end, marker, result, run_status="finished", exit_code=0)


EIGHT = """
from concurrent.futures import ThreadPoolExecutor

def work(number):
    manager = new_manager(metadata={"task_name": str(number)})
    manager.start()
    append(manager, 0, number + 1)
    assert manager.stop(exit_code=number)

with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(8)))
"""


def test_fault_34_eight_runs_of_one_program_at_once(home: Home, marker: str, far_end: FarEnd) -> None:
    """Each is begun and ended in a thread of its own."""
    run(programs.PREAMBLE + EIGHT, surroundings(home, marker, far_end)).check_unfelt()
    wait_gone(marker)
    assert len(far_end.runs) == 8
    for one in far_end.runs:
        number = int(str(one.metadata["task_name"]))
        evidence = far_end.evidence(one.run_id)
        oracle.judge(evidence, told(number + 1), run_status="finished", exit_code=number)


def test_fault_34_fork_is_refused_in_a_program_with_threads(home: Home, marker: str, far_end: FarEnd) -> None:
    script = programs.PREAMBLE + (
        "import threading\n"
        "threading.Thread(target=time.sleep, args=(1,)).start()\n"
        "try:\n"
        "    new_manager(start_method='fork').start()\n"
        "except ValueError as error:\n"
        "    say('refused:', error)\n"
    )
    result = run(script, surroundings(home, marker, far_end)).check_unfelt()
    assert b"refused: " in result.stdout
    assert b"spawn" in result.stdout
    assert not far_end.runs


def test_fault_34_started_by_fork_is_delivered_when_the_program_is_killed(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    environment = surroundings(home, marker, far_end, METHOD="fork")
    result = run(START + "os.kill(os.getpid(), 9)", environment)
    assert result.exit_code == -signal.SIGKILL
    finished_as(far_end, marker, result, run_status="failed", exit_code=None)


TRACKED = """
import os, sys, time
import streaming
with streaming.track(job_name="forks", interval=0.1, upload_interval=1, host_info={}, cloud_info={}):
    time.sleep(0.5)
    for helper in ("sys.exit(5)", "raise RuntimeError('the helper fails')", "os._exit(6)"):
        pid = os.fork()
        if pid == 0:
            exec(helper)
        os.waitpid(pid, 0)
        time.sleep(0.2)
"""


def test_fault_34_forked_helper_does_not_end_its_parents_tracked_block(
    home: Home, marker: str, far_end: FarEnd
) -> None:
    result = run(TRACKED, surroundings(home, marker, far_end))
    result.check_unfelt(traceback_count=1)
    far_end.wait_finished()
    wait_gone(marker)
    assert len(far_end.runs) == 1
    assert not [path for path in Path(home.spool_dir).glob("*.log") if b"Traceback" in path.read_bytes()]
    oracle.live(far_end.evidence(), run_status="finished", exit_code=0)
