"""The settings file, and the order in which flag, environment, file and default count."""

from pathlib import Path

import pytest

from streaming.cli import settings
from streaming.collect import metadata
from streaming.errors import BadArgument


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_file_holds_settings_and_tags(tmp_path: Path) -> None:
    path = written(tmp_path, 'job_name = "train"\ninterval = 2\nquiet = true\nmode = "offline"\n[tags]\nfold = 3\n')
    assert settings.read_file(path) == {
        "job_name": "train",
        "interval": 2,
        "quiet": True,
        "mode": "offline",
        "tags": {"fold": "3"},
    }


def test_missing_default_file_is_no_error_and_a_missing_given_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.read_file(None) == {}
    with pytest.raises(BadArgument, match=r"nowhere\.toml cannot be read"):
        settings.read_file(Path("nowhere.toml"))


def test_default_file_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / settings.DEFAULT_FILE).write_text('team = "vision"\n')
    assert settings.read_file(None) == {"team": "vision"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("job_name = ", "is not TOML"),
        ('job_nam = "x"', "did you mean job_name"),
        ("interval = -1", "interval = -1 cannot be used"),
        ('interval = "fast"', "a number"),
        ("interval = true", "cannot be used"),
        ("interval = nan", "cannot be used"),
        ('mode = "sometimes"', "auto, offline or disabled"),
        ("quiet = 1", "true or false"),
        ('tags = "a=b"', "a table of texts"),
        ("tags = { a = [1] }", "a table of texts"),
        ('token = "abc"', "token_file"),
        ("job_name = []", "cannot be used"),
    ],
)
def test_broken_file_is_an_error_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadArgument, match=words) as caught:
        settings.read_file(path)
    assert str(path) in str(caught.value)


def test_tag_of_the_flag_counts_before_the_environments_and_the_files() -> None:
    merged = settings.merge_tags(("a=flag",), "a=environment, b=environment", {"a": "f", "b": "f", "c": "file"})
    assert merged == {"a": "flag", "b": "environment", "c": "file"}


@pytest.mark.parametrize(("flags", "environment"), [(("fold",), ""), (("=3",), ""), ((), "fold"), ((), "=3")])
def test_tag_without_key_or_value_is_refused(flags: tuple[str, ...], environment: str) -> None:
    with pytest.raises(BadArgument, match="KEY=VALUE"):
        settings.merge_tags(flags, environment, {})


def test_value_of_a_tag_may_hold_an_equals_sign() -> None:
    assert settings.merge_tags(("a=b=c",), "", {}) == {"a": "b=c"}


def test_names_of_the_wire_are_settings_by_the_same_names() -> None:
    assert tuple(setting.name for setting in settings.METADATA) == metadata.NAMES
