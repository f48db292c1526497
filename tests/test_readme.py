"""The READMEs tell the truth: their commands run, and their output is as shown there, numbers aside.

How a block is treated depends on its language:

* `console`: lines that begin with `$ ` are run in one bash session, in order, in a HOME of its own; what follows a command
  is its output, stdout and stderr together. Numbers, run names, sparklines, sizes and durations are masked; a line `...`
  stands for any lines.
* `bash` with a `#SBATCH` line: the SLURM recipe; `tests/streaming/cli/commands/test_slurm.py` runs it.
* `sh`: not run (it may be this very test suite); its scripts exist, its `tracker-stream` commands and flags are known.
"""

import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streaming.cli import main
from tests import architecture
from tests.support.processes import ROOT, Home, clean_environment, wait_gone
from tests.support.readmes import READMES, all_text, settings_table

README = all_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
END_OF_OUTPUT = "=== end of output ==="
MASKS = (
    (r"\d{8}-\d{6}-[0-9a-f]{16}", "RUN"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "ID"),
    (r"[▁-█]+", "SPARK"),
    (r"\b[A-Z][a-z]{2} \d\d \d\d:\d\d\b", "MOMENT"),
    (r"\d[\d,.:]*\d|\d", "N"),
    (r"\bN-N-N\b", "N"),
    (r"\bN (?:min|h|d) N (?:s|min|h)\b", "N s"),
    (r"\bN (?:B|kB|MB)\b", "N bytes"),
    (r"\bN rows?\b", "N rows"),
    (r"(file system:\s+)\w+", r"\1KIND"),
    (r"[ \t]+", " "),
)


def blocks(language: str, text: str = README) -> list[str]:
    return [block for found, block in BLOCK.findall(text) if found == language]


def masked(line: str) -> str:
    for pattern, word in MASKS:
        line = re.sub(pattern, word, line)
    return line.strip()


def steps(readme: Path) -> Iterator[tuple[str, list[str]]]:
    """(command, its output as shown), of all console blocks of a README in order."""
    command: str | None = None
    shown: list[str] = []
    for line in "".join(blocks("console", readme.read_text(encoding="utf-8"))).splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command is not None:
        yield command, shown


WITH_CONSOLE = [path for path in READMES if "```console" in path.read_text(encoding="utf-8")]


class Bash:
    """One session for all blocks: what a command exports stays."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.home = environment["HOME"]
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            env=environment,
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\necho; echo '{END_OF_OUTPUT}'\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == END_OF_OUTPUT:
                break
            lines.append(line.rstrip("\n").replace(self.home, "~"))
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def close(self) -> None:
        self._process.communicate(timeout=60)


def is_as_shown(output: list[str], shown: list[str]) -> bool:
    """Line by line, masked; `...` stands for any lines."""
    pattern = "".join("(?:.*\n)*" if line == "..." else re.escape(masked(line)) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(masked(line) + "\n" for line in output)) is not None


@pytest.mark.weed
@pytest.mark.timeout(300)
@pytest.mark.parametrize("readme", WITH_CONSOLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_console_blocks_do_what_is_shown(readme: Path, home: Home, marker: str) -> None:
    environment = clean_environment(home, marker, LANG="C.UTF-8", TRACKER_STREAM_LINGER="3")
    del environment["TRACKER_STREAM_DIR"]  # as a user has it: below the state directory
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    bash = Bash(environment)
    wrong: list[str] = []
    try:
        for command, shown in steps(readme):
            while shown and not shown[-1]:
                shown = shown[:-1]
            output = bash.run(command.replace("server up", "server up --port 0"))  # two tests must not meet
            if not is_as_shown(output, shown):
                wrong.append("\n".join([f"$ {command}", *output, "--- the README shows:", *shown]))
    finally:
        bash.run("tracker-stream server down")
        bash.close()
    assert not wrong, "\n\n".join(wrong)
    wait_gone(marker)


def test_structure_is_that_of_the_table() -> None:
    shown = README.partition("<!-- structure -->\n")[2].partition("<!-- /structure -->")[0]
    assert shown == f"```text\n{architecture.picture()}\n```\n"


def test_settings_table_is_that_of_the_code() -> None:
    shown = README.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert shown == settings_table()


STEP = re.compile(r"^\d\. `((?:spool|streaming)\.[\w.]+)`", re.MULTILINE)


@pytest.mark.parametrize("folder", ["streaming/upload", "streaming/record", "streaming/server"])
def test_each_step_of_a_walk_is_a_function(folder: str) -> None:
    names = STEP.findall((ROOT / folder / "README.md").read_text(encoding="utf-8"))
    assert len(names) >= 6, "the walk is here"
    for name in names:
        assert callable(pkgutil.resolve_name(name)), name


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line.strip()])
def test_commands_for_the_shell_are_known(line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    if words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK), words[0]
    if words[0] == "tracker-stream":
        known_command(words[1:])


def known_command(words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    own = words[: words.index("--")] if "--" in words else words
    flags = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
    for word in own:
        assert not word.startswith("-") or word.split("=")[0] in flags, f"{word} is no flag of {command.name}"


def test_every_command_is_in_the_readme() -> None:
    for name in main.list_commands(click.Context(main)):
        assert f"| `{name}" in README, name
