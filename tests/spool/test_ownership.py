"""Who delivers a run: one process at a time."""

import json
import os
from pathlib import Path

import pytest

from spool import ownership
from spool.errors import Owned, SpoolRefused, SpoolUnavailable


def test_one_owner_at_a_time_and_the_file_says_who(tmp_path: Path) -> None:
    path = tmp_path / "a.spool"
    assert not ownership.is_owned(path)
    with ownership.own(path):
        assert ownership.is_owned(path)
        holder = json.loads(path.with_suffix(".lock").read_text())
        assert holder["pid"] == os.getpid()
        with pytest.raises(Owned, match="another process delivers a"), ownership.own(path):
            pass
    assert not ownership.is_owned(path)
    with ownership.own(path):
        pass


def test_lock_in_a_vanished_directory_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(SpoolUnavailable, match="cannot be used now"),
        ownership.own(tmp_path / "gone" / "a.spool"),
    ):
        pass


def test_lock_of_a_removed_run_protects_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.spool"
    with ownership.own(path):
        path.with_suffix(".lock").unlink()
        with ownership.own(path):
            assert ownership.is_owned(path)


@pytest.mark.parametrize("odd", ["a second name of another file", "a pipe"])
def test_lock_that_is_no_file_of_its_own_is_refused_and_not_written_to(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "a.spool"
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if odd == "a pipe":
        os.mkfifo(path.with_suffix(".lock"))
    else:
        os.link(precious, path.with_suffix(".lock"))
    with pytest.raises(SpoolRefused, match="not a plain file of its own"), ownership.own(path):
        pass
    assert precious.read_text() == "precious"
