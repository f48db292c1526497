"""The README files of the project: at its root and in the folders that they are about."""

from pathlib import Path

from streaming import config
from streaming.config import Kind

ROOT = Path(__file__).resolve().parents[2]
READMES = [
    ROOT / "README.md",
    *sorted(path for top in ("spool", "streaming", "tests", "scripts") for path in (ROOT / top).rglob("README.md")),
]


def all_text() -> str:
    """What all of them say."""
    return "\n".join(path.read_text(encoding="utf-8") for path in READMES)


def settings_table() -> str:
    """All settings of the code as the Markdown table that the README has."""
    rows = ["| flag | environment | key in the file | default | what it is |", "|---|---|---|---|---|"]
    for setting in config.RECORDING:
        is_tag = setting.kind is Kind.TAGS
        unit = " s" if setting.kind is Kind.SECONDS else ""
        default = "" if setting.default in (None, False) else f"{setting.default:g}{unit}" if unit else setting.default
        flag = f"{setting.flag} K=V" if is_tag else "`, `".join(reversed(setting.flags or (setting.flag,)))
        text = f"{setting.help[:-1]} ({setting.kind.value})" if is_tag else setting.help
        variable = f"{setting.variable}=K=V,K=V" if is_tag else setting.variable
        rows.append(f"| `{flag}` | `{variable}` | `{setting.name}` | {default} | {text} |")
    return "\n".join(rows) + "\n"
