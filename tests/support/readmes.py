"""The README files of the project: at its root and in the folders that they are about."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READMES = [
    ROOT / "README.md",
    *sorted(path for top in ("spool", "streaming", "tests", "scripts") for path in (ROOT / top).rglob("README.md")),
]


def all_text() -> str:
    """What all of them say."""
    return "\n".join(path.read_text(encoding="utf-8") for path in READMES)
