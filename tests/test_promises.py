"""The READMEs point at tests and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.readmes import READMES, ROOT, all_text


def test_every_test_that_a_readme_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", all_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) >= 20
    assert named <= defined


def test_every_path_that_a_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|spool|streaming|scripts)/[\w./-]*)`", all_text()))
    assert len(named) >= 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_readme_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
