"""Rows that wait in memory while the spool cannot take them: in order, bounded, and no loss without a word.

When the room is used up, every second row goes, and of those to come only every second one is kept (then every fourth,
and so on), so that the whole time is there at one resolution, its beginning and the newest row included.
"""

from __future__ import annotations

import logging

MAX_ROWS = 100_000  # a day at a second, some 30 MB; an even number

log = logging.getLogger(__name__)


class RowBuffer:
    """The rows that wait, and how many were lost and are not noted yet in the run itself."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self.lost_count = 0
        self._rows: list[bytes] = []
        self._max_rows = max_rows
        self._start()

    def _start(self) -> None:
        self._rows.clear()
        self._keep_every = 1
        self._seen_count = 0
        self._is_newest_only = False  # the last row makes way for the next one

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: bytes) -> None:
        if self._is_newest_only:
            self._rows.pop()
            self.lost_count += 1
        if len(self._rows) >= self._max_rows:
            self._thin_out()
        self._rows.append(row)
        self._is_newest_only = self._seen_count % self._keep_every != 0
        self._seen_count += 1

    def joined(self) -> bytes:
        return b"".join(self._rows)

    def clear(self) -> None:
        """They are in the spool."""
        self._start()

    def give_up(self) -> int:
        """Count what still waits as lost. Returns how many rows that were."""
        count = len(self._rows)
        self.lost_count += count
        self._start()
        return count

    def _thin_out(self) -> None:
        before = len(self._rows)
        del self._rows[1::2]
        self._keep_every *= 2
        self.lost_count += before - len(self._rows)
        log.warning(
            "rows.lost: %s rows, for the spool takes none and no more fit into memory; of all that wait, and of those to"
            " come until it takes them again, one of %d is kept",
            f"{self.lost_count:,}",
            self._keep_every,
        )
