"""Where spools live, and what is refused in words."""

from pathlib import Path

import pytest

from spool import directory, ownership
from spool.errors import DirectoryUnusable
from tests.support import spools
from tests.support.spools import rows


def test_directory_is_the_environments_or_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACKER_STREAM_DIR", "relative")
    assert directory.chosen() == Path.cwd() / "relative"
    monkeypatch.delenv("TRACKER_STREAM_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert directory.chosen() == tmp_path / "state" / "tracker-stream" / "spools"


def test_directory_is_made_private_with_its_parents(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    directory.prepare(place)
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.iterdir()] == [directory.MARK_NAME], "the probe leaves nothing"


def test_open_directory_with_nothing_but_spools_is_closed(tmp_path: Path) -> None:
    spools.filled(tmp_path / "spools", [rows(0)])
    (tmp_path / "spools").chmod(0o755)
    directory.prepare(tmp_path / "spools")
    assert (tmp_path / "spools").stat().st_mode & 0o777 == 0o700


def test_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "spools").write_text("")
    with pytest.raises(DirectoryUnusable, match="is a file") as told:
        directory.prepare(tmp_path / "spools")
    assert "TRACKER_STREAM_DIR" in told.value.hint


def test_file_above_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryUnusable, match="cannot be used"):
        directory.prepare(tmp_path / "file" / "spools")


def test_new_paths_sort_by_time_and_are_unique(tmp_path: Path) -> None:
    earlier, later, again = (directory.new_spool_path(tmp_path, at) for at in (1e9, 1e9 + 1, 1e9 + 1))
    assert earlier < later
    assert later != again
    assert later.suffix == directory.SUFFIX


def test_absent_directory_has_no_spools(tmp_path: Path) -> None:
    assert directory.spool_paths(tmp_path / "absent") == []


def test_remove_takes_all_files_of_the_run_and_no_others(tmp_path: Path) -> None:
    path = spools.filled(tmp_path, [rows(0)])
    other = spools.filled(tmp_path, [rows(1)])
    path.with_suffix(".log").write_text("log")
    kept = path.with_name(f"{path.name}.damaged-20260101T000000Z")
    kept.write_bytes(b"")
    with ownership.own(path):
        directory.remove(path)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / directory.MARK_NAME, other, spools.journal_of(other), kept])
    directory.remove(path)
