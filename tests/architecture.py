"""The structure of the product: which packages there are, what each is for, and what each may import.

`python -m tests.architecture` prints it as it is, measured from the imports, and fails where an arrow is not in the table;
the picture in the README is drawn from the same table.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Package:
    """What a package is for, in one line, and the packages that it may import."""

    purpose: str
    imports: tuple[str, ...]


BASE = ("spool", "errors", "config")
# From the bottom up: a package imports only what stands above it in this table.
PACKAGES = {
    "spool": Package("one SQLite file per run: append, seal, mark sent, recover; knows no network", ()),
    "errors": Package("the tree of errors of streaming", ()),
    "config": Package("settings of the environment, and their defaults", ("spool", "errors")),
    "processes": Package("starting our own processes, and what the kernel tells of them", BASE),
    "collect": Package("where rows and facts come from: samples, CSV files, host, scheduler", (*BASE, "processes")),
    "clients": Package("the two ways to the network: the Sentinel API and S3", (*BASE, "processes")),
    "upload": Package("from the spool to the service", (*BASE, "processes", "collect", "clients")),
    "record": Package("the caller's side: StreamingManager, track, a command's run", (*BASE, "processes", "collect")),
    "tables": Package("rows as Arrow tables: the schema, CSV to columns, figures, charts", ()),
    "read": Package(
        "what anybody may ask of runs, wherever their rows lie", (*BASE, "collect", "clients", "upload", "tables")
    ),
    "server": Package(
        "a Sentinel-compatible service with an S3, on your own machine",
        (*BASE, "processes", "collect", "clients", "tables"),
    ),
    "cli": Package(
        "the command `tracker-stream`",
        (*BASE, "processes", "collect", "clients", "upload", "record", "tables", "read", "server"),
    ),
    "integrations": Package("plugins for the frameworks that have a place for them", ("record",)),
    "streaming": Package("the public names, each loaded when first asked for", ("record", "read", "cli")),
}
MODULES_MAX = 15
LINES_MAX = 450
FUNCTION_LINES_MAX = 60


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for path in sorted([*(ROOT / "spool").rglob("*.py"), *(ROOT / "streaming").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_of(module: str) -> str:
    """The row of `PACKAGES` that a module belongs to."""
    parts = module.split(".")
    if parts[0] == "spool":
        return "spool"
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__") else "streaming"


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The product's modules that a file imports, anywhere in it, those for type checkers only aside."""
    found: set[str] = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return found & known.keys()


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _executed(child)


def graph() -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    known = modules()
    return {name: imported(path, known) - {name} for name, path in known.items()}


def arrows(imports: dict[str, set[str]]) -> dict[tuple[str, str], list[str]]:
    """(importing package, imported package) -> the modules that import."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module, others in imports.items():
        for package in {package_of(other) for other in others} - {package_of(module)}:
            found[package_of(module), package].append(module)
    return found


def forbidden(imports: dict[str, set[str]]) -> list[str]:
    """Each arrow that the table does not have, with the modules that are to blame."""
    return [
        f"{package} -> {other}: {', '.join(sorted(blame))}"
        for (package, other), blame in sorted(arrows(imports).items())
        if package not in PACKAGES or other not in PACKAGES[package].imports
    ]


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another (strongly connected components, by Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imports[module]:
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in index:
            visit(module)
    return found


def picture() -> str:
    """The packages from the bottom up, each with what it imports, as the README shows them."""
    wide = max(map(len, PACKAGES))
    return "\n".join(f"{name:<{wide}}  {package.purpose}" for name, package in PACKAGES.items())


def too_full() -> list[str]:
    """Folders with many modules, which hide a package; modules and functions with many lines, which hide another noun."""
    known = modules()
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in known.values() if path.name != "__init__.py")
    return [
        *(f"{folder} has {count} modules" for folder, count in folders.items() if count > MODULES_MAX),
        *(f"{name} has {count} lines" for name, path in known.items() if (count := _lines(path)) > LINES_MAX),
        *(f"{name}.{text}" for name, path in known.items() for text in _long_functions(path)),
    ]


def _long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES_MAX:
                yield f"{node.name} has {count} lines"


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def report() -> list[str]:
    """Print packages, modules, lines and arrows; return what is wrong."""
    known, imports = modules(), graph()
    found = arrows(imports)
    for name in PACKAGES:
        own = [path for module, path in known.items() if package_of(module) == name]
        outgoing = [other for other in PACKAGES if (name, other) in found]
        arrow = f"  -> {' '.join(outgoing)}" if outgoing else ""
        print(f"{name:<10} {len(own):>3} modules {sum(map(_lines, own)):>6} lines{arrow}")
    print(f"{'in all':<10} {len(known):>3} modules {sum(map(_lines, known.values())):>6} lines of Python")
    return [
        *(f"an arrow that is not in the table: {arrow}" for arrow in forbidden(imports)),
        *(f"modules that import one another: {', '.join(group)}" for group in cycles(imports)),
        *too_full(),
    ]


if __name__ == "__main__":
    problems = report()
    print(*problems, sep="\n")
    sys.exit(1 if problems else 0)
