"""An append whose COMMIT reported an I/O error: nobody knows whether it is there, until a later commit comes through.

Callers append such rows again, perhaps with more behind them. What is there already must not be appended twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spool.model import Batch


@dataclass(frozen=True)
class Doubt:
    """The batches that may be in the spool, the last of them under this id."""

    batches: tuple[Batch, ...]
    last_batch_id: int

    def without_repetition(self, batches: Sequence[Batch]) -> list[Batch]:
        """`batches` without the rows at their beginning that are the doubtful ones; all if they are other rows."""
        rest = list(batches)
        for old in self.batches:
            if not rest or rest[0].header != old.header or not rest[0].rows.startswith(old.rows):
                return list(batches)
            longer = rest[0].rows[len(old.rows) :]
            rest[:1] = [Batch(old.header, longer)] if longer else []
        return rest
