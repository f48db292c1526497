"""The settings file: who may set what, and the order in which flag, environment, file and default count."""

import os
from pathlib import Path

import pytest

from streaming import config
from streaming.cli import settings
from streaming.config import RECORDING
from streaming.errors import BadArgument
from tests.streaming.cli.commands.test_clean import delivered_run
from tests.streaming.cli.conftest import InProcess
from tests.support.other_user import UID
from tests.support.processes import Home

DESCRIBING = 'job_name = "train"\ninterval = 2\nupload_interval = 5\n[tags]\nfold = 3\n'
FOUND = {"job_name": "train", "interval": 2.0, "upload_interval": 5.0, "tags": {"fold": "3"}}
REACHING_OUT = {
    "api_url": "https://elsewhere.example.com",
    "s3_endpoint_url": "https://elsewhere.example.com",
    "token_file": "/etc/hostname",
    "spool_dir": "/elsewhere",
    "mode": "disabled",
    "quiet": True,
    "exit_wait": 0,
}


@pytest.fixture(autouse=True)
def _own_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKER_STREAM_DIR")
    home.path.chmod(0o755)
    monkeypatch.chdir(home.path)


def written(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(text)
    path.chmod(mode)
    return path


def as_toml(value: object) -> str:
    return {True: "true"}[value] if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def given(found: config.Found) -> dict[str, object]:
    """The values that differ from the defaults."""
    return {name: value for name, value in found.values.items() if value != config.BY_NAME[name].default}


def test_named_file_may_set_everything(home: Home) -> None:
    text = "".join(f"{name} = {as_toml(value)}\n" for name, value in REACHING_OUT.items())
    found = settings.resolve(RECORDING, {}, written(home.path / "named.toml", text + DESCRIBING))
    assert (given(found), dict(found.unusable)) == (
        {**FOUND, **REACHING_OUT, "exit_wait": 0.0},
        {},
    )


def test_file_of_the_users_configuration_directory_may_set_everything(home: Home) -> None:
    written(settings.users_path(), 'api_url = "https://mine.example.com"\n')
    assert given(settings.resolve(RECORDING, {}, None)) == {"api_url": "https://mine.example.com"}


def test_every_command_looks_where_the_users_file_says_that_runs_are_kept(cli: InProcess, tmp_path: Path) -> None:
    path = delivered_run(tmp_path / "elsewhere")
    written(settings.users_path(), f'spool_dir = "{tmp_path / "elsewhere"}"\n')
    for words in (["status"], ["export", path.stem], ["advise", "old"], ["clean", "--dry-run"]):
        result = cli(*words)
        assert (result.exit_code, "No run" in result.stdout) == (0, False), result.output
    assert cli("clean", "--yes").exit_code == 0
    assert not path.exists()


def test_file_at_hand_may_say_what_the_run_is() -> None:
    written(Path(settings.FILE_NAME), DESCRIBING)
    found = settings.resolve(RECORDING, {}, None)
    assert (given(found), dict(found.unusable)) == (FOUND, {})


@pytest.mark.parametrize("name", REACHING_OUT)
def test_file_at_hand_may_not_say_where_to_or_how(name: str) -> None:
    written(Path(settings.FILE_NAME), f"{name} = {as_toml(REACHING_OUT[name])}\n{DESCRIBING}")
    found = settings.resolve(RECORDING, {}, None)
    assert given(found) == FOUND
    (told,) = found.unusable.values()
    assert f"({name})" in told
    assert "--config" in told


def test_file_at_hand_is_not_even_looked_at_by_a_command_that_records_nothing() -> None:
    written(Path(settings.FILE_NAME), 'api_url = "https://elsewhere.example.com"\n')
    found = settings.resolve((config.SPOOL_DIR, *config.DELIVERY), {}, None)
    assert (given(found), dict(found.unusable)) == ({}, {})


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "words"),
    [
        (0o666, 0o755, "it can be written by others"),
        (0o664, 0o755, "it can be written by others"),
        (0o644, 0o777, "its folder can be written by others"),
        (0o644, 0o1777, "its folder can be written by others"),
        (0o644, 0o775, "its folder can be written by others"),
    ],
)
def test_file_at_hand_that_others_may_have_written_is_not_used(file_mode: int, folder_mode: int, words: str) -> None:
    written(Path(settings.FILE_NAME), DESCRIBING, file_mode)
    Path.cwd().chmod(folder_mode)
    found = settings.resolve(RECORDING, {}, None)
    assert given(found) == {}
    assert words in found.unusable[settings.FILE_NAME]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_file_at_hand_of_another_user_is_not_used(what: str) -> None:
    path = written(Path(settings.FILE_NAME), DESCRIBING)
    os.chown(path if what == "file" else Path.cwd(), UID, UID)
    found = settings.resolve(RECORDING, {}, None)
    assert given(found) == {}
    assert "belongs to another user" in found.unusable[settings.FILE_NAME]


def test_pipe_at_hand_holds_nobody_up() -> None:
    os.mkfifo(settings.FILE_NAME)
    assert "it is no file" in settings.resolve(RECORDING, {}, None).unusable[settings.FILE_NAME]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (".".join("a" * 30_000) + " = 1", "too large"),
        (f"job_name = '{'x' * 9000}'", "too large"),
        ("job_name = " + "[" * 5000, "nested too deeply"),
        ("tags." + ".".join("a" * 3000) + " = 1", "a table of texts"),
    ],
    ids=["dots", "a long name", "lists", "tables"],
)
def test_file_at_hand_that_is_dear_to_read_costs_its_settings_and_no_more(text: str, words: str) -> None:
    """It may have come with somebody's repository: half a minute, or a traceback instead of the command."""
    written(Path(settings.FILE_NAME), text)
    found = settings.resolve(RECORDING, {}, None)
    assert given(found) == {}
    assert words in " ".join(found.unusable.values())


def test_users_file_that_others_may_have_written_is_not_used(home: Home) -> None:
    written(settings.users_path(), 'api_url = "https://elsewhere.example.com"\n', 0o666)
    assert given(settings.resolve(RECORDING, {}, None)) == {}


@pytest.mark.parametrize("text", [None, "job_name = "])
def test_named_file_that_is_none_is_a_mistake(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "named.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadArgument, match=r"named\.toml (cannot be read|is not TOML)"):
        settings.resolve(RECORDING, {}, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('job_nam = "x"', "did you mean job_name"),
        ("interval = -1", "interval='-1' cannot be used"),
        ('interval = "fast"', "a number"),
        ("interval = true", "cannot be used"),
        ("interval = nan", "cannot be used"),
        ('mode = "sometimes"', "auto, offline or disabled"),
        ("quiet = 1", "true or false"),
        ('tags = "a=b"', "a table of texts"),
        ("tags = { a = [1] }", "a table of texts"),
        ('token = "abc"', "token_file"),
        ("job_name = []", "cannot be used"),
        ('api_url = "http://10.1.2.3:8080"', "use https://"),
        ('token_file = "/nowhere"', "cannot be read"),
    ],
)
def test_setting_of_a_file_that_cannot_be_used_is_named_and_the_others_are_used(
    tmp_path: Path, text: str, words: str
) -> None:
    path = written(tmp_path / "named.toml", f'team = "vision"\n{text}\n')
    found = settings.read_file(path)
    assert found.values == {"team": "vision"}
    (told,) = found.unusable.values()
    assert words in told
    assert str(path) in told


def test_flag_counts_before_environment_before_file_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    written(Path(settings.FILE_NAME), 'job_name = "file"\nteam = "file"\nenv = "file"\n[tags]\na = "f"\nc = "file"\n')
    monkeypatch.setenv("TRACKER_JOB_NAME", "environment")
    monkeypatch.setenv("TRACKER_TEAM", "environment")
    monkeypatch.setenv("TRACKER_TAGS", "a=environment, b=environment")
    found = settings.resolve(RECORDING, {"job_name": "flag", "tags": ("a=flag",), "quiet": None}, None).values
    assert (found["job_name"], found["team"], found["env"], found["interval"]) == ("flag", "environment", "file", 1.0)
    assert found["tags"] == {"a": "flag", "b": "environment", "c": "file"}


def test_flag_that_can_be_used_makes_up_for_an_environment_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_INTERVAL", "soon")
    assert "interval" in settings.resolve(RECORDING, {}, None).unusable
    found = settings.resolve(RECORDING, {"interval": 3.0}, None)
    assert (found.values["interval"], dict(found.unusable)) == (3.0, {})


@pytest.mark.parametrize("flag", ["fold", "=3"])
def test_tag_without_key_or_value_is_refused(flag: str) -> None:
    with pytest.raises(BadArgument, match="KEY=VALUE"):
        settings.resolve(RECORDING, {"tags": (flag,)}, None)


def test_value_of_a_tag_may_hold_an_equals_sign() -> None:
    assert config.parse_tags("a=b=c", "it") == {"a": "b=c"}
    assert settings.resolve(RECORDING, {"tags": ("a=b=c",)}, None).values["tags"] == {"a": "b=c"}
