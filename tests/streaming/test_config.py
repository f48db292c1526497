"""Where settings come from, and which are refused."""

from pathlib import Path

import pytest

from streaming import config
from streaming.errors import BadArgument
from tests.support.processes import Home


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://example.com/base/",
        "http://127.0.0.1:8080",
        "http://[::1]:80",
        "http://localhost/x/",
    ],
)
def test_safe_urls_are_taken_without_their_last_slash(url: str) -> None:
    assert config.require_safe_url(url, "it") == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "http://example.com",
        "ftp://127.0.0.1",
        "https://",
        "http://127.0.0.1.evil.com",
        "file:///etc",
        "https://user:password@example.com",
        "https://example.com/?q=1",
        "http://localhost.evil.com",
        "https://a b",
    ],
)
def test_other_urls_are_refused_by_name(url: str) -> None:
    with pytest.raises(BadArgument, match="it '") as told:
        config.require_safe_url(url, "it")
    assert "https://" in told.value.hint


def test_argument_goes_before_environment_before_default(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.api_url() == config.DEFAULT_API_URL
    assert config.s3_endpoint_url() is None
    monkeypatch.setenv("SENTINEL_API_URL", "https://from.environment")
    monkeypatch.setenv("SENTINEL_S3_ENDPOINT_URL", "https://s3.environment")
    assert config.api_url() == "https://from.environment"
    assert config.api_url("https://given") == "https://given"
    assert config.s3_endpoint_url() == "https://s3.environment"


def test_token_is_found_in_its_variable_its_fallback_or_its_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.token_from_environment() is None
    file = home.path / "token"
    file.write_text(" of-the-file \n")
    monkeypatch.setenv("SENTINEL_API_TOKEN_FILE", "~/token")
    assert config.token_from_environment() == "of-the-file"
    monkeypatch.setenv("SENTINEL_API_KEY", "fallback")
    assert config.token_from_environment() == "fallback"
    monkeypatch.setenv("SENTINEL_API_TOKEN", " first ")
    assert config.token_from_environment() == "first"


def test_unreadable_token_file_is_told_by_name(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SENTINEL_API_TOKEN_FILE", str(tmp_path / "absent"))
    with pytest.raises(BadArgument, match="SENTINEL_API_TOKEN_FILE"):
        config.token_from_environment()


@pytest.mark.parametrize(("text", "seconds"), [(None, 9.0), ("", 9.0), ("0", 0.0), ("1.5", 1.5)])
def test_seconds_are_a_number_or_the_default(text: str | None, seconds: float) -> None:
    assert config.seconds(text, default=9.0, name="SETTING") == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "inf", "nan"])
def test_other_seconds_are_refused_by_the_settings_name(text: str) -> None:
    with pytest.raises(BadArgument, match=f"SETTING='{text}'"):
        config.seconds(text, default=9.0, name="SETTING")
