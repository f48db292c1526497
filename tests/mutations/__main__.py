"""Break one line after the other in a copy of the tree, and see that the test named for it fails. Two at a time."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("spool", "streaming", "tests", "scripts", "pyproject.toml", "README.md")
AT_ONCE = 2
LIMIT_S = 180.0  # for one test: it may hang, which is not to be caught
TESTS_FAILED = 1  # pytest's own exit code


@dataclass(frozen=True)
class Verdict:
    """What became of a mutation, in words, and how long that took."""

    mutation: Mutation
    problem: str  # empty: it was caught
    took_s: float

    def __str__(self) -> str:
        what = f"SURVIVED ({self.problem})" if self.problem else "caught"
        return f"{self.took_s:5.1f} s  {what}  {self.mutation.file}: {_line(self.mutation.old)} -> {self.mutation.test}"


def _line(text: str) -> str:
    return repr(" ".join(text.split())[:50])


def copy_of_the_tree(place: Path) -> Path:
    """Where things may be broken. What is broken is always a copy."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, place / name)
    return place


@contextmanager
def broken(tree: Path, mutation: Mutation) -> Iterator[None]:
    """The line is broken inside the block. Raises ValueError if the text does not occur exactly once."""
    path = tree / mutation.file
    text, status = path.read_text(), path.stat()
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f"its text occurs {count} times")
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # by which Python knows whose bytecode that is


def run_test(tree: Path, node: str) -> tuple[int, str]:
    """pytest's exit code and output. The test's processes end with it, whatever it left behind."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=line", node]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with subprocess.Popen(
        words,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def judge(tree: Path, mutation: Mutation) -> Verdict:
    began_at = time.monotonic()
    try:
        with broken(tree, mutation):
            code, output = run_test(tree, mutation.test)
        problem = "" if code == TESTS_FAILED else _last_line(output)
    except (ValueError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    return Verdict(mutation, problem, time.monotonic() - began_at)


def _last_line(output: str) -> str:
    """What pytest says at its end."""
    return (re.sub(r"\s+", " ", output.strip().rpartition("\n")[2]) or "no output")[:100]


def judge_all(mutations: list[Mutation], place: Path) -> list[Verdict]:
    """Each thread breaks a copy of its own."""
    own = threading.local()
    trees = iter([copy_of_the_tree(Path(tempfile.mkdtemp(dir=place))) for _ in range(AT_ONCE)])

    def judged(mutation: Mutation) -> Verdict:
        verdict = judge(own.tree, mutation)
        print(verdict, flush=True)
        return verdict

    with ThreadPoolExecutor(AT_ONCE, initializer=lambda: setattr(own, "tree", next(trees))) as pool:
        return list(pool.map(judged, mutations))


def main() -> int:
    form = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    form.add_argument("words", nargs="*", metavar="WORD", help="only those whose file, text or test holds one of these")
    words = form.parse_args().words
    chosen = [each for each in MUTATIONS if not words or any(word in str(each) for word in words)]
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        verdicts = judge_all(chosen, Path(place))
    survived = [verdict for verdict in verdicts if verdict.problem]
    print(f"{len(verdicts) - len(survived)} of {len(verdicts)} caught in {time.monotonic() - began_at:.0f} s")
    for verdict in survived:
        print(verdict)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
