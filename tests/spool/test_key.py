"""The user's key: made once, whole, private; what it has proven nobody else can say."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spool import directory, key
from tests.support.processes import Home


def test_what_was_proven_is_known_again_and_nothing_else(home: Home) -> None:
    said = key.proof(["a", 1, None])
    assert key.is_proven(said, ["a", 1, None])
    assert not key.is_proven(said, ["a", 1, ""])
    assert not key.is_proven("", ["a", 1, None])
    assert not key.is_proven("é", ["a", 1, None])


def test_key_is_private_in_the_state_directory_and_made_once(home: Home) -> None:
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as pool:
            said = set(pool.map(lambda _: key.proof(["x"]), range(32)))
    finally:
        os.umask(before)
    place = directory.state_directory()
    assert place is not None
    assert len(said) == 1
    assert [entry.name for entry in place.iterdir()] == ["key"], "no draft is left"
    assert (place / "key").stat().st_mode & 0o777 == 0o600
    assert len((place / "key").read_bytes()) == 32


def test_key_that_is_not_whole_not_private_or_a_link_proves_nothing_and_is_left_alone(home: Home) -> None:
    said = key.proof(["x"])
    place = key.path()
    assert place is not None
    content = place.read_bytes()
    place.chmod(0o644)
    assert not key.is_proven(said, ["x"])
    assert key.proof(["x"]) == ""
    place.chmod(0o600)
    assert key.is_proven(said, ["x"])
    place.write_bytes(b"")
    assert not key.is_proven(said, ["x"])
    place.rename(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")
    place.with_name("elsewhere").write_bytes(content)
    assert not key.is_proven(said, ["x"])


@pytest.mark.parametrize("how", ["no place", "a file in its place"])
def test_without_a_state_directory_nothing_is_proven(home: Home, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "no place":
        monkeypatch.setattr(key, "state_directory", lambda: None)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(Path(__file__)))
    assert key.proof(["x"]) == ""
    assert not key.is_proven("", ["x"])
