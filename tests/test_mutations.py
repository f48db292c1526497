"""The table of mutations fits the code: what `scripts/mutate` breaks is there, and so is the test that must notice."""

from collections import Counter
from pathlib import Path

import pytest

from tests.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]


def test_there_are_enough_and_none_twice() -> None:
    assert len(MUTATIONS) >= 60
    assert max(Counter((each.file, each.old, each.new) for each in MUTATIONS).values()) == 1


@pytest.mark.parametrize("file", sorted({each.file for each in MUTATIONS}))
def test_each_text_occurs_once_and_its_test_is_there(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not [each for each in MUTATIONS if each.file == file and not _applies(each, text)]


def _applies(mutation: Mutation, text: str) -> bool:
    module, _, name = mutation.test.partition("::")
    return text.count(mutation.old) == 1 and f"def {name}(" in (ROOT / module).read_text()
