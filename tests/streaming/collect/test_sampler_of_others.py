"""Processes of other users in the tree (sudo, or attached to) are sampled as far as they show themselves."""

import os

from streaming.collect.sampler import _tolerant


def test_process_that_may_not_be_looked_into_shows_its_resident_size() -> None:
    def get_process_pss_rollup(_pid: int) -> int:
        raise PermissionError(13, "smaps_rollup of another user's process")

    tolerant = _tolerant(get_process_pss_rollup)
    assert tolerant(os.getpid()) > 1000  # KiB
    assert _tolerant(tolerant) is tolerant  # a second sampler wraps nothing twice
