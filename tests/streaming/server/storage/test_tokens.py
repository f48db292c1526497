"""Tokens: shown once, kept as a hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.server.errors import ServerError, UnknownName
from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.tokens import TokenStore


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    return TokenStore(ServerDatabase(tmp_path / "server.db"))


def test_a_token_is_found_and_is_nowhere_in_the_file(tokens: TokenStore, tmp_path: Path) -> None:
    token = tokens.add("ann")
    found = tokens.find(token)
    assert found is not None
    assert found.name == "ann"
    assert token.encode() not in (tmp_path / "server.db").read_bytes()
    assert (tmp_path / "server.db").stat().st_mode & 0o777 == 0o600


def test_a_revoked_token_is_not_found_and_its_name_is_free(tokens: TokenStore) -> None:
    first = tokens.add("ann")
    tokens.revoke("ann")
    assert tokens.find(first) is None
    second = tokens.add("ann")
    found = tokens.find(second)
    assert found is not None
    assert tokens.find(first) is None
    assert [entry.name for entry in tokens.list()] == ["ann"]


def test_a_name_given_again_is_the_same_owner(tokens: TokenStore) -> None:
    before = tokens.find(tokens.add("ann"))
    tokens.revoke("ann")
    after = tokens.find(tokens.add("ann"))
    assert before is not None
    assert after is not None
    assert before.id == after.id


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a" * 101])
def test_an_odd_name_is_refused(tokens: TokenStore, name: str) -> None:
    with pytest.raises(ServerError, match="printable"):
        tokens.add(name)


def test_a_name_in_use_and_an_unknown_name_are_refused(tokens: TokenStore) -> None:
    tokens.add("ann")
    with pytest.raises(ServerError, match="already"):
        tokens.add("ann")
    with pytest.raises(UnknownName):
        tokens.revoke("bob")


def test_an_odd_token_is_just_not_found(tokens: TokenStore) -> None:
    for text in ("", "x", "\udcff", "tst_" + "a" * 10_000):
        assert tokens.find(text) is None
