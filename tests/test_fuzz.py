"""Each target of `scripts/fuzz` takes a few inputs, so that it still works when somebody wants to try millions."""

import pytest

from tests.fuzz import answers, csv_files, requests_to_the_server, spool_files
from tests.fuzz.target import Target

EXAMPLES = 10
TARGETS = [*csv_files.TARGETS, *spool_files.TARGETS, *requests_to_the_server.TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_few_inputs_break_nothing(target: Target) -> None:
    target.attack(1, EXAMPLES)
    assert target.tried >= EXAMPLES


def test_a_few_answers_break_no_client() -> None:
    for target in answers.TARGETS:
        target.attack(1, EXAMPLES)
    answers.far_end().close()
    answers.far_end.cache_clear()


def test_what_breaks_is_told() -> None:
    def no_number_is_large(number: int) -> None:
        assert number < 100

    with pytest.raises(AssertionError):
        Target(csv_files.st.integers(), no_number_is_large).attack(1, 1000)
