"""What is refused before SQLite sees it: odd files, links, owners, modes, journals."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool, trust
from spool.errors import NoSuchRun, SpoolRefused
from tests.support import spools
from tests.support.spools import rows


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "strange.spool")
    with pytest.raises(SpoolRefused, match="is not a plain file"):
        trust.require_trustworthy(tmp_path / "strange.spool")


def test_missing_spool_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match="there is no spool"):
        trust.require_trustworthy(tmp_path / "absent.spool")


def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    path = spools.filled(tmp_path, [rows(0)])
    os.chown(spools.journal_of(path), 65534, 65534)
    with pytest.raises(SpoolRefused, match="belongs to user 65534"):
        trust.require_trustworthy(path)


def test_own_spool_is_trusted_in_any_state(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    trust.require_trustworthy(path)
    with closing(Spool(path)) as spool, spool.connection.transaction() as db:
        db.execute("UPDATE batch SET appended_at = 1")
        trust.require_trustworthy(path)  # with a journal in use
    spools.journal_of(path).unlink()
    trust.require_trustworthy(path)


def test_journal_that_names_another_file_is_refused(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    spools.plant_super_journal(path, tmp_path / "thesis.tex")
    with pytest.raises(SpoolRefused, match="names another file, which SQLite would delete"):
        trust.require_trustworthy(path)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_write_ahead_log_is_refused_even_as_a_dangling_link(tmp_path: Path, suffix: str) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    path.with_name(path.name + suffix).symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpoolRefused, match="write-ahead log"):
        trust.require_trustworthy(path)


@pytest.mark.parametrize("suffix", ["", "-journal"])
def test_file_under_two_names_is_refused(tmp_path: Path, suffix: str) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    os.link(path.with_name(path.name + suffix), tmp_path / "second name")
    with pytest.raises(SpoolRefused, match="has 2 hard links"):
        trust.require_trustworthy(path)


def test_second_name_that_a_killed_recovery_left_is_no_harm(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    os.link(path, tmp_path / f"{path.name}.damaged-20260101T000000Z")
    os.link(spools.journal_of(path), tmp_path / f"{path.name}.damaged-20260101T000000Z-journal")
    trust.require_trustworthy(path)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_spool_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    path.chmod(mode)
    with pytest.raises(SpoolRefused, match="other users may write to"):
        trust.require_trustworthy(path)


@pytest.mark.parametrize("mode", [0o770, 0o1777])
def test_directory_in_which_others_may_plant_a_journal_is_refused(tmp_path: Path, mode: int) -> None:
    path = spools.filled(tmp_path / "spools", [rows(0)])
    path.parent.chmod(mode)
    with pytest.raises(SpoolRefused, match="other users may write in the directory"):
        trust.require_trustworthy(path)
