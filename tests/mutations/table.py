"""Lines of the product, each broken on purpose, and the test that notices: read from `mutations.diff`.

There, below `@ file`, stand the text as it is (`-`; it occurs there once), what it becomes (`+`), and the test that must
fail then (`!`, its file below tests/ and its name, without `.py` and `test_`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """One line broken on purpose. `test`: the id of its node."""

    file: str
    old: str
    new: str
    test: str


def _read(text: str) -> list[Mutation]:
    found: list[Mutation] = []
    file = ""
    for block in text.strip("\n").split("\n\n"):
        lines = {mark: [line[2:] for line in block.split("\n") if line[:1] == mark] for mark in "@-+!"}
        if lines["@"]:
            (file,) = lines["@"]
        else:
            ((module, _, name),) = [test.partition("::") for test in lines["!"]]
            test = f"tests/{module}.py::test_{name}"
            found.append(Mutation(file, "\n".join(lines["-"]), "\n".join(lines["+"]), test))
    return found


MUTATIONS = _read(Path(__file__).with_name("mutations.diff").read_text())
