"""Secrets in a command line do not get into the record; everything else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.collect.redaction import redact

SECRET = "s3cr3t-canary-value"
HIDING = [
    ["prog", f"--token={SECRET}"],
    ["prog", "--token", SECRET],
    ["prog", f"--api-key={SECRET}"],
    ["prog", "--hf_token", SECRET],
    ["prog", f"--wandb-api-key={SECRET}", "--epochs", "3"],
    ["prog", "--password", SECRET, "run"],
    ["prog", "-password", SECRET],
    ["env", f"WANDB_API_KEY={SECRET}", "prog"],
    ["env", f"AWS_SECRET_ACCESS_KEY={SECRET}", "prog"],
    ["prog", f"postgres://user:{SECRET}@db.example/train"],
    ["git", "clone", f"https://{SECRET}@github.com/a/b"],
    ["curl", f"https://example.com/x?token={SECRET}&n=1"],
    ["curl", f"https://b.s3.amazonaws.com/k?X-Amz-Signature={SECRET}"],
    ["curl", "-H", f"Authorization: Bearer {SECRET}", "https://example.com"],
    ["curl", "-H", f"X-Api-Key: {SECRET}", "https://example.com"],
    ["bash", "-c", f"python train.py --token {SECRET} --epochs 3"],
    ["bash", "-c", f"DB_PASSWORD='{SECRET}' python train.py"],
    ["prog", f'{{"password": "{SECRET}"}}'],
]
PLAIN = [
    ["python", "train.py", "--epochs", "3", "--lr=0.1"],
    ["python", "-m", "tokenizer", "--tokenizer", "bpe", "--max-tokens", "512"],
    ["curl", "https://example.com/a?b=c"],
    ["cp", "s3://bucket/key", "user@host:/path"],
    ["prog", "--author", "Ada", "--monkey=1", "--compass", "north"],
    ["grep", "pass", "file"],
]


@pytest.mark.parametrize("words", HIDING, ids=lambda words: " ".join(words)[:50])
def test_secret_is_hidden(words: list[str]) -> None:
    hidden = redact(words)
    assert SECRET not in " ".join(hidden)
    assert "***" in " ".join(hidden)
    assert len(hidden) == len(words)


@pytest.mark.parametrize("words", PLAIN, ids=lambda words: " ".join(words)[:50])
def test_ordinary_words_stay(words: list[str]) -> None:
    assert redact(words) == words


def test_the_token_in_use_is_hidden_wherever_it_is() -> None:
    assert redact(["prog", f"x{SECRET}y"], [SECRET]) == ["prog", "x***y"]


def test_what_stands_around_a_secret_stays() -> None:
    assert redact(["psql", f"postgres://ada:{SECRET}@db/x"]) == ["psql", "postgres://ada:***@db/x"]
    assert redact(["sh", "-c", f"a --token {SECRET} b"]) == ["sh", "-c", "a --token *** b"]


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_words_keep_their_number_and_twice_is_once(words: list[str]) -> None:
    once = redact(words)
    assert len(once) == len(words)
    assert len(redact(once)) == len(once)
