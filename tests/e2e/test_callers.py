"""Every way in which a program may come to start a StreamingManager; each delivers."""

import sys
from pathlib import Path

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import PRELUDE, User, told

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-2")]

SHORT_RUN = """
manager = StreamingManager(TOKEN, csv_path=CSV, host_info={}, cloud_info={})
manager.start()
write(0, 10)
answer = manager.stop()
assert answer, "not delivered"
"""


@pytest.mark.parametrize("flags", [(), ("-O",), ("-I",), ("-W", "error")], ids=str)
def test_unguarded_script(far_side: FarSide, user: User, flags: tuple[str, ...]) -> None:
    """No `if __name__ == "__main__"`; it says how often it was run."""
    script = user.home.path / "script.py"
    script.write_text(_finding_us() + PRELUDE + SHORT_RUN + 'say("once")\n')
    result = user.start_python(*flags, script).wait().check_unfelt()
    assert result.stdout == b"once\n"
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def _finding_us() -> str:
    """With -I, PYTHONPATH does not count."""
    return f"import sys; sys.path.append({str(Path(__file__).parents[2])!r})\n"


def test_dash_c(far_side: FarSide, user: User) -> None:
    user.start_python("-c", PRELUDE + SHORT_RUN).wait().check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def test_program_on_stdin(far_side: FarSide, user: User) -> None:
    program = user.start_python("-", stdin=True)
    program.popen.communicate((PRELUDE + SHORT_RUN).encode(), timeout=60)
    assert program.popen.returncode == 0
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def test_notebook_like_exec(far_side: FarSide, user: User) -> None:
    """Cells that are compiled and executed one by one, in a `__main__` that no file holds; argv is a kernel's."""
    cells = [PRELUDE, *SHORT_RUN.strip().splitlines()]
    user.start_python(
        "-c",
        f"""
import sys, types
sys.argv = ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"]
main = sys.modules["__main__"] = types.ModuleType("__main__")
for number, cell in enumerate({cells!r}):
    exec(compile(cell, f"<ipython-input-{{number}}>", "exec"), main.__dict__)
""",
    ).wait().check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_worker(far_side: FarSide, user: User, method: str) -> None:
    """A daemonic process: multiprocessing would not let it have children of its own."""
    user.run(
        f"""
import multiprocessing
def work(_):
{_indented(SHORT_RUN)}
    return os.getpid()
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        assert pool.map(work, [0]) != [os.getpid()]
""",
    ).check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def _indented(script: str) -> str:
    return "\n".join("    " + line for line in script.strip().splitlines())


def test_program_with_20_threads(far_side: FarSide, user: User) -> None:
    user.run(
        f"""
import threading
enough = threading.Event()
def spin():
    while not enough.wait(0.001):
        sum(range(1000))
threads = [threading.Thread(target=spin) for _ in range(20)]
for thread in threads:
    thread.start()
try:
{_indented(SHORT_RUN)}
finally:
    enough.set()
"""
    ).check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def test_from_a_thread_while_others_run_managers_too(far_side: FarSide, user: User) -> None:
    """Eight runs at once in one program, each begun and ended in a thread of its own."""
    user.run(
        """
from concurrent.futures import ThreadPoolExecutor
def work(number):
    manager = StreamingManager(TOKEN, host_info={}, cloud_info={}, metadata={"task_name": str(number)})
    manager.start()
    manager.append(HEADER + b"".join(row(n) for n in range(number + 1)))
    assert manager.stop(exit_code=number)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(8)))
"""
    ).check_unfelt()
    for run in far_side.wait_finished(count=8):
        number = int(run.metadata["task_name"])
        far_side.judge(told(number + 1), run=run, run_status="finished", exit_code=number)
    user.wait_gone()


def test_fork_start_method(far_side: FarSide, user: User) -> None:
    user.run(SHORT_RUN.replace("cloud_info={}", 'cloud_info={}, start_method="fork"')).check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()


def test_environment_without_site(far_side: FarSide, user: User) -> None:
    """`python -S` with a path set by hand, as embedded interpreters and zipapps have it."""
    path = [str(Path(__file__).parents[2]), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    script = f"import sys; sys.path += {path!r}\n" + PRELUDE + SHORT_RUN
    user.start_python("-S", "-c", script).wait().check_unfelt()
    far_side.judge(told(10), run_status="finished", exit_code=0)
    user.wait_gone()
