"""What is fuzzed: how inputs are made, and what must hold of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st


@dataclass
class Target:
    """`check` takes one input, and raises whatever it likes if something does not hold of it."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    tried: int = 0

    @property
    def name(self) -> str:
        return self.check.__name__

    def attack(self, number: int, examples: int) -> None:
        """Try so many inputs drawn from a seed. Raises what the smallest one that breaks it raises, with a note of it."""

        def once(given_input: Any) -> None:
            self.tried += 1
            self.check(given_input)

        once.__name__ = self.name
        calm = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(number)(calm(given(self.inputs)(once)))()
